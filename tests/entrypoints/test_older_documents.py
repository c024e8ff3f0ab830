"""docs/older_names.md against the code, and the older documents against docs/older_names.md."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from core import config as configuration
from core import older_names
from core.errors import UserError
from core.stages.clip import checks as clip_checks
from core.stages.discovery import checks as discovery_checks
from core.stages.longtail import checks as longtail_checks
from core.stages.posts import checks as posts_checks
from core.training import recipes
from entrypoints import train_clip, train_longtail
from tests.core.stages.clip import tiny_clip
from tests.core.stages.longtail import tiny as tiny_longtail
from tests.core.stages.posts import tiny_posts
from tests.core.test_older_names import GUIDE
from tests.entrypoints.place import ROOT
from tests.entrypoints.test_mlproject import ENTRY_POINTS, config_of
from tuning import config as tuning_config

PAGE = (ROOT / "docs" / "older_names.md").read_text()
ORIGIN = ROOT.parent / "shared" / "origin"
STARTS = re.compile(r"^(?:\S*python|mlflow|bash|tensorboard|tail|pip) ")
SCRIPT = re.compile(r"([\w/]*?)(\w+\.(?:py|sh))\b")
SECTIONS = ("Commands", "Scripts", "Options", "Files and folders", "Metrics")
# What each kind of training says of options without reading any data.
CHECKS = {
    "pseudo_pipeline": lambda c: discovery_checks.check_pipeline(recipes.resolve(c)),
    "train_superclass": lambda c: discovery_checks.check_training(recipes.resolve(c)),
    "train_clip": clip_checks.check_given,
    "train_longtail": longtail_checks.refuse,
    "optimize_clip": posts_checks.check_training,
    "head_variant_compare": posts_checks.head_variants,
    "preprocess_compare": posts_checks.check_training,
    "mine_bad_cases": lambda c: posts_checks.check_training(posts_checks.fitted(posts_checks.OptimizeClipConfig, c)),
    "tune_optimize_clip": tuning_config.check,
}


def rows(section: str) -> list[list[str]]:
    """Return the cells of every row of the section's tables."""
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S).group(1)
    found = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")]
    return [row for row in found if row[0] != "older"]


def plain(cell: str) -> str:
    """Return what stands in the cell's first backticks, else the cell."""
    found = re.match(r"`([^`]+)`", cell)
    return found.group(1) if found else cell


COMMANDS = [(plain(older), here) for older, here in rows("Commands")]
SCRIPTS = {Path(plain(older)).name: plain(here) for older, here in rows("Scripts")}
HERE = list(dict.fromkeys(plain(here) for _, here in COMMANDS if plain(here).startswith("mlflow run . -e ")))
OLDER = [older for older, _ in COMMANDS if SCRIPT.search(older)]


def short(words: str) -> str:
    return words[-60:]


def entry_point_of(command: str) -> str:
    """Return the entry point that the table of scripts names for the script of an older command."""
    return SCRIPTS[SCRIPT.search(command).group(2)]


def words_of(command: str) -> list[str]:
    """Return the options of an older command."""
    words = shlex.split(command.replace("\\", "/"))
    return words[next(i for i, word in enumerate(words) if SCRIPT.fullmatch(word)) + 1 :]


def answer(entry_point: str, words: list[str]) -> str:
    """Return the line with which an entry point refuses the words; '' where it reads them."""
    try:
        configuration.parse(config_of(entry_point), words, entry_point)
    except UserError as error:
        return str(error)
    return ""


def commands_in(text: str) -> list[str]:
    """Return the example commands of a document, each on one line and without its comment."""
    found = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        for one in (line.strip(), *re.findall(r"`([^`]+)`", line)):
            one = " ".join(one.split(" #")[0].split())
            if STARTS.match(one) and one not in found:
                found.append(one)
    return found


def guide_of_superclip() -> str:
    """Return the first configuration file of the guide, or the same options where the guide is not at hand."""
    found = [path for path in ORIGIN.glob("002*.txt")] if ORIGIN.is_dir() else []
    return re.search(r"```json\n(.*?)```", found[0].read_text(encoding="utf-8"), re.S).group(1) if found else GUIDE


def documents() -> dict[str, str]:
    """Return the older documents by name, or skip the test where they are not at hand."""
    if not ORIGIN.is_dir():
        pytest.skip(f"the older documents are not at {ORIGIN}")
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(ORIGIN.glob("*.txt"))}


def test_the_page_has_its_tables():
    assert all(rows(section) for section in SECTIONS) and len(COMMANDS) >= 30
    assert all(here for _, here in COMMANDS) and len(set(COMMANDS)) == len(COMMANDS)


@pytest.mark.parametrize("command", HERE, ids=short)
def test_a_command_of_the_page_is_taken(command):
    words = shlex.split(command)
    entry_point, options = words[4], words[5:]
    assert words[:4] == ["mlflow", "run", ".", "-e"] and entry_point in ENTRY_POINTS and set(options[::2]) <= {"-P"}
    names = [option.split("=")[0] for option in options[1::2]]
    assert set(names) <= {name for name, *_ in configuration.fields_of(config_of(entry_point))} and len(set(names)) == len(names)
    config = configuration.parse(config_of(entry_point), [f"--{option}" for option in options[1::2]], entry_point)
    CHECKS.get(entry_point, lambda config: None)(config)
    for option in options[1::2]:
        name, value = option.split("=", 1)
        given = getattr(config, name)
        assert str(given).lower() == value.lower() or float(given) == float(value), option


@pytest.mark.parametrize("command", OLDER, ids=short)
def test_an_older_command_is_read_or_answered_with_what_took_its_place(command):
    entry_point, words = entry_point_of(command), words_of(command)
    if words == ["--help"]:
        return
    known = {name for name, *_ in configuration.fields_of(config_of(entry_point))}
    gone = [word[2:] for word in words if word.startswith("--") and older_names.present_name(word[2:], known) not in known]
    said = answer(entry_point, words)
    assert bool(said) == bool(gone) and "\n" not in said
    for name in gone:
        assert f"'{name.replace('-', '_')}' any more ({older_names.replacement(name, known)})" in said
    rest = [word for i, word in enumerate(words) if not {word[2:], words[i - 1][2:] if i else ""} & set(gone)]
    assert answer(entry_point, rest) == "", "what is left once the refused options are left out is read"


@pytest.mark.parametrize("command", OLDER, ids=short)
def test_a_command_of_the_page_does_what_the_older_one_asked_for(command):
    """Every option that is read has the older command's value in the new one, but for those that the row speaks of."""
    here = plain(dict(COMMANDS)[command])
    entry_point, words = entry_point_of(command), words_of(command)
    if not here.startswith("mlflow run . -e ") or "--weights" in words or "--resume" in words:
        return
    assert here.split()[4] == entry_point
    options = [f"--{option}" for option in shlex.split(here)[6::2]]
    new = configuration.parse(config_of(entry_point), options, entry_point)
    known = {name for name, *_ in configuration.fields_of(config_of(entry_point))}
    names = [word[2:] for word in words if word.startswith("--")]
    gone = {name for name in names if older_names.present_name(name, known) not in known}
    rest = [word for i, word in enumerate(words) if not {word[2:], words[i - 1][2:] if i else ""} & gone]
    old = configuration.parse(config_of(entry_point), rest, entry_point)
    moved = {"train_csv", "output_dir"} if entry_point == "merge_badcase_aug" else set()
    for field in dataclasses.fields(old):
        if getattr(old, field.name) != field.default and field.name not in moved:
            assert getattr(new, field.name) == getattr(old, field.name), field.name


def test_the_page_names_every_option_that_is_renamed_or_gone():
    named = set(re.findall(r"\w+", " ".join(older for older, _ in rows("Options"))))
    assert set(older_names.RENAMED) | set(older_names.REPLACED) <= named


def test_the_page_names_every_older_metric_that_an_option_answers():
    named = {word.lower() for word in re.findall(r"[\w-]+", " ".join(older for older, *_ in rows("Metrics")))}
    answered = {*older_names.DISCOVERY, *older_names.CLASSIFYING} - {"val_map", "tail_acc", "tailacc", "macrof1"}
    assert answered <= named


def test_every_example_command_of_the_documents_has_a_row():
    have = {older for older, _ in COMMANDS}
    lacking = {name: [one for one in commands_in(text) if one not in have] for name, text in documents().items()}
    assert not any(lacking.values()), lacking


def test_every_script_of_the_documents_has_a_row():
    found = {name for text in documents().values() for _, name in SCRIPT.findall(text)}
    assert found - set(SCRIPTS) == set()


@pytest.mark.parametrize(("prefix", "heading"), [("000", r"^## (\w+\.py)"), ("002", ""), ("003", ""), ("004", r"^## .*`(\w+\.py)`")])
def test_every_option_of_the_documents_is_read_or_answered(prefix, heading):
    (text,) = [text for name, text in documents().items() if name.startswith(prefix)]
    parts = re.split(heading, text, flags=re.M)[1:] if heading else [{"002": "train_clip.py", "003": "task1train.py"}[prefix], text]
    lacking = []
    for script, said in zip(parts[::2], parts[1::2], strict=True):
        if script.startswith("_"):
            continue
        # A pipeline's section also names options that it calls its stages with.
        entry_points = {SCRIPTS[one] for one in (script, *(name for _, name in SCRIPT.findall(said))) if SCRIPTS.get(one) in ENTRY_POINTS}
        known = {"help"}.union(*({name for name, *_ in configuration.fields_of(config_of(one))} for one in entry_points))
        names = set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", said.split("\n## ")[0] if heading else said)) - {"logdir"}
        lacking += [(script, n) for n in names if older_names.present_name(n, known) not in known and not older_names.replacement(n, known)]
    assert not lacking


def test_every_key_of_the_documents_configurations_is_read():
    (text,) = [text for name, text in documents().items() if name.startswith("002")]
    keys = set(re.findall(r'^\s*"(\w+)":', text, re.M))
    known = {name for name, *_ in configuration.fields_of(config_of("train_clip"))}
    assert len(keys) > 20 and {older_names.present_name(key, known) for key in keys} <= known


def test_every_file_of_the_documents_has_a_row():
    """Files are named in backticks, and in the trees of folders; the long-tail document's other chapters are about code."""
    suffix = r"(?:json|csv|npz|pt|pth|pkl|txt|png|log)"
    found = set()
    for name, text in documents().items():
        shown = text if not name.startswith("003") else text[text.rindex("## 输出") :]
        found |= {one.rsplit("/")[-1] for one in re.findall(rf"`[^`\n]*?([\w/<>*{{}}.]+\.{suffix})`", shown)}
        found |= set(re.findall(rf"── (\S+\.{suffix})", shown))
    said = re.sub(r"\s", "", " ".join(cell for row in rows("Files and folders") for cell in row))
    assert found and {one for one in found if one not in said and not one.startswith("*")} == set()


def newest_run(client):
    """Return the newest run that is no child of another."""
    found = client.search_runs([client.get_experiment_by_name("taxon").experiment_id], order_by=["attributes.start_time DESC"])
    return next(run for run in found if "mlflow.parentRunId" not in run.data.tags)


def metrics_of(family: str) -> set[str]:
    """Return the names that the page gives to the metrics of a family."""
    return {name for _, what, here in rows("Metrics") if what == family for name in re.findall(r"`([\w/]+)`", here)}


def overridden(**options: object) -> list[str]:
    """Return options as words."""
    return [f"--{name}={str(value).lower()}" for name, value in options.items()]


@pytest.mark.slow
def test_the_first_example_of_the_superclip_guide_runs_to_its_end(client, tracking_env, own_process_state, capsys):
    """The command and the file are those of the guide; only what makes the training large is overridden on the command line."""
    tiny_clip.make_images(tracking_env / "single_label_data", {"bar": 8, "cross": 6, "dot": 6, "ring": 6})
    tiny_clip.write_sentences(tracking_env / "class_texts_hip_prosthesis.json")
    (tracking_env / "train_clip_config.json").write_text(guide_of_superclip())
    words = words_of(next(older for older in OLDER if "--multi-config" in older))
    small = overridden(**tiny_clip.TINY | {"epochs": 1, "n_splits": 2})
    assert train_clip.main([*words, *small]) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("taxon: error: train_clip has no option 'output_dir' any more (what a run makes is in its artifacts")
        and said.count("\n") == 1
    )
    place = words.index("--output-dir")
    assert train_clip.main([*words[:place], *words[place + 2 :], *small]) == 0
    run = newest_run(client)
    assert run.info.status == "FINISHED"
    experiment = client.get_experiment_by_name("taxon").experiment_id
    folds = client.search_runs([experiment], "attributes.run_name LIKE 'fold %'")
    assert sorted(one.info.run_name for one in folds) == ["fold 1", "fold 2"]
    assert metrics_of("class sentences") <= set(folds[0].data.metrics)


@pytest.mark.slow
def test_an_example_of_the_long_tail_document_runs_to_its_end(client, tracking_env, own_process_state, capsys):
    images = tiny_longtail.make_images(tracking_env / "cleaned")
    words = words_of(next(older for older in OLDER if "--model-type fewshot" in older))
    place = words.index("--save-dir")
    small = {"backbone": "small_cnn", "pretrained": False, "image-size": 12, "progressive-image-size": 16, "epochs": 1, "batch-size": 8}
    folders = {"train-dir": images / "train", "val-dir": images / "val"}
    machine = {"gpu": "cpu", "threads": 1, "num-workers": 1, "use-amp": False, "register": False}
    given = overridden(**small, **folders, **machine)
    assert train_longtail.main([*words[:place], *words[place + 2 :], *given]) == 0
    run = newest_run(client)
    assert run.info.status == "FINISHED" and run.data.params["model_type"] == "fewshot"
    assert metrics_of("long tail") <= set(run.data.metrics)


@pytest.mark.slow
def test_discovery_and_posts_log_the_metrics_of_the_page(pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))
    logged = set(pipeline.first_parent().data.metrics)
    wanted = {name for family in ("unlabelled training images", "test images", "discovery", "a refresh") for name in metrics_of(family)}
    # The tiny pipeline has one refresh, and the digits' recipe holds labelled images out for val/accuracy_old.
    assert wanted - {"pseudo/label_change_rate"} <= logged and "val/accuracy_old" in logged
    training = tiny_posts.fitted(tiny_posts.write(tmp_path / "posts"), tmp_path / "work")
    assert metrics_of("posts") <= set(training.history[-1][1]) | {"accuracy", "macro_f1", "macro_precision", "macro_recall"}
