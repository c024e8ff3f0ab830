"""What README, CONTRIBUTING and the pages of docs/ point at is there: files, headings, entry points, options, benchmarks."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.stages import catalog

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
ANY = "__any__"  # what stands for a reader's own words


def prose(page: Path) -> str:
    """Return a page without its fenced blocks, which hold other files."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the names by which a page's headings are linked to."""
    plain = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading) for heading in HEADING.findall(prose(page))]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of every command of this project that a page shows."""
    text = prose(page).replace("\\\n", " ")
    shown = re.findall(r"(?:mlflow run \.|python -m )[^`\n]*", text)
    for command in shown:
        cut = re.split(r"\s#|[;|&]|\s\[", re.sub(r"<[^>]*>|\.\.\.", ANY, command))[0]
        try:
            yield shlex.split(cut)
        except ValueError:  # the rest of a shell line that was cut within quotes
            yield cut.split()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in LINK.findall(prose(page)):
        if not target.startswith(("http:", "https:")):
            place, _, anchor = target.partition("#")
            there = page.resolve().parent / place if place else page
            assert there.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_what_is_there(page: Path):
    options = {stage.name: {field.name for field in dataclasses.fields(stage.config)} for stage in catalog.stages()}
    for words in commands(page):
        if words[:2] == ["mlflow", "run"]:
            name = words[words.index("-e") + 1] if "-e" in words else "pseudo_pipeline"
            given = [word.split("=")[0] for flag, word in itertools.pairwise(words) if flag == "-P"]
        elif words[2].startswith("entrypoints."):
            name = words[2].removeprefix("entrypoints.")
            given = [word[2:].split("=")[0] for word in words[3:] if word.startswith("--")]
        else:
            ours = words[2].startswith(("tests.", "core.")) and ANY not in words[2]
            assert not ours or ROOT.joinpath(*words[2].split(".")).with_suffix(".py").exists(), f"{page.name}: {words[2]}"
            continue
        if ANY not in name:
            assert name in options, f"{page.name}: {name}"
            unknown = set(given) - options[name] - {"help", "option", "name"}
            assert not unknown, f"{page.name}: {name} has no {', '.join(sorted(unknown))}"


def test_the_readme_is_read_in_an_hour():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180
