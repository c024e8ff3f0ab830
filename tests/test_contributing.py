"""CONTRIBUTING.md is followed to the letter, recipe by recipe, in a copy of the project."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.core.stages.longtail.tiny import make_images
from tests.entrypoints.place import ROOT, Place

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PARTS = ("core", "entrypoints", "tuning", "tests", "MLproject", "conda.yaml", "pyproject.toml")
NUMBERS = {"Three": 3, "Four": 4, "Five": 5}
WRITTEN_BY_COMMAND = {"An entry point": {"MLproject"}}


@dataclass
class Recipe:
    """What a section says: files to write, changes to make, commands to run."""

    text: str
    files: dict[str, str] = field(default_factory=dict)
    changes: dict[str, str] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)


def read(title: str) -> Recipe:
    """Return the recipe under a heading."""
    text = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    recipe = Recipe(next(part for part in text if part.startswith(f"{title}\n")))
    for kind, name, content in BLOCK.findall(recipe.text):
        if kind == "sh":
            recipe.commands += [shlex.split(line) for line in content.splitlines()]
        else:
            (recipe.changes if kind == "diff" else recipe.files)[name] = content
    return recipe


def changed(text: str, change: str) -> str:
    """Return a file after a change: hunks divided by @@, of lines that stay, go (-) and come (+)."""
    for hunk in re.split(r"^@@\n", change, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        before, after = ("".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" -", " +"))
        assert text.count(before) == 1, f"these lines stand {text.count(before)} times in the file:\n{before}"
        text = text.replace(before, after)
    return text


def follow(title: str, folder: Path) -> tuple[Recipe, Place, str]:
    """Follow a recipe in a copy of the project; return it, where it ran, and what its last command printed."""
    recipe, project = read(title), folder / "project"
    project.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, project / part, **({"ignore": shutil.ignore_patterns("__pycache__")} if (ROOT / part).is_dir() else {}))
    make_images(project / "pictures")
    for name, content in recipe.files.items():
        assert not (project / name).exists()
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(content)
    for name, change in recipe.changes.items():
        (project / name).write_text(changed((project / name).read_text(), change))
    place = Place(folder, project)
    for command in recipe.commands:
        done = ran(place, command)
    return recipe, place, done


def ran(place: Place, command: list[str]) -> str:
    found = place.run([*command, *(["-q", "-p", "no:cacheprovider", "-m", "not slow"] if "pytest" in command else [])])
    assert found.returncode == 0, f"{shlex.join(command)}\n{found.stdout}{found.stderr}"
    return found.stdout


def count_of(recipe: Recipe, title: str) -> int:
    """Return how many files a recipe touches: those that it writes, changes, and has written."""
    return len(recipe.files.keys() | recipe.changes.keys() | WRITTEN_BY_COMMAND.get(title, set()))


@pytest.mark.parametrize("title", ["A loss", "A data set", "An entry point"])
def test_the_page_says_how_many_files_a_recipe_takes(title):
    said = re.search(r"\n\n(\w+) files", read(title).text)
    assert said is not None and NUMBERS[said[1]] == count_of(read(title), title)


def test_a_family_is_a_folder_a_line_and_a_launcher():
    recipe = read("A family")
    outside = [name for name in recipe.files if not re.match(r"(tests/)?core/stages/colours/", name)]
    (line,) = [added for added in recipe.changes["core/stages/catalog.py"].splitlines() if added.startswith("+")]
    assert outside == ["entrypoints/train_colours.py"] and list(recipe.changes) == ["core/stages/catalog.py"] and "colours" in line


@pytest.mark.slow
def test_a_loss_trains_an_epoch_by_its_name(tmp_path):
    _recipe, place, _said = follow("A loss", tmp_path)
    (run,) = place.parents()
    assert run.info.status == "FINISHED" and run.data.params["loss_type"] == "poly"
    assert run.data.metrics["L_label"] > 0


@pytest.mark.slow
def test_a_data_set_is_loaded_and_split(tmp_path):
    _recipe, place, said = follow("A data set", tmp_path)
    assert place.parents()[0].info.status == "FINISHED"
    assert re.search(r"^shapes +labelled +27  validation +3  unlabelled +60$", said, re.MULTILINE)


@pytest.mark.slow
def test_an_entry_point_is_declared_and_runs(tmp_path):
    _recipe, place, said = follow("An entry point", tmp_path)
    declared = yaml.safe_load((place.project / "MLproject").read_text())["entry_points"]["census"]
    assert declared["command"] == "python -m entrypoints.census --data_root={data_root} --least={least}"
    first, *found = said.splitlines()
    assert first == "taxon: census on train (least=6)" and found == ["4 classes, 28 images; fewer than 6: dot (5), ring (3)"]
    assert place.parents()[0].data.metrics["census/images"] == 28


@pytest.mark.slow
def test_a_family_is_in_the_catalog_and_trains(tmp_path):
    _recipe, place, said = follow("A family", tmp_path)
    accuracy = place.parents()[0].data.metrics["val/accuracy"]
    found = [f"pictures: nearest mean colour, validation accuracy {accuracy:.3f}"]
    assert said.splitlines() == ["taxon: train_colours on pictures", *found] and accuracy > 0.5
    found = place.run(place.command("train_colours", shrink="1"))
    assert found.returncode == 2 and found.stderr.startswith("taxon: error: shrink = 1")
