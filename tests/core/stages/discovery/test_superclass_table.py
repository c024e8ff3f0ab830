"""A table of arms: every cell is trained once, its figures are its training's, and the ceiling is above discovery."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from core.data.superclasses import SUPERCLASSES
from core.stages.discovery import arms, superclass_table, train
from core.stages.discovery.table_config import SuperclassTableConfig
from core.tracking import run as tracking
from core.tracking.uri import local_artifacts
from tests.core.conftest import store_template  # noqa: F401  (fixture)
from tests.core.stages import tiny
from tests.core.stages.discovery.short import OPTIONS, store_in
from tests.core.stages.discovery.test_answer import make_heap
from tests.core.stages.test_registered_figures import InProcess
from tests.core.stages.tiny import refused
from tests.memory_run import MemoryRun

NAMES = {"compare_without", "stage1_epochs", "update_interval", "total_epochs"}
SHORT = {name: value for name, value in OPTIONS.items() if name not in NAMES} | {
    "novel_classes": "ring",
    "labels_per_class": 6,
    "stage1_epochs": 2,
    "update_interval": 2,
    "total_epochs": 4,
    "chosen_on": "",
}
ALL = "frozen,contrast,contrast+pseudo,both,ceiling"


@pytest.fixture(scope="module")
def place(store_template, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("table")
    tiny.make_images(folder / "images")
    with pytest.MonkeyPatch.context() as patch:
        store_in(folder, store_template, patch)
        patch.setenv("TAXON_CACHE", str(folder / "cache"))
        patch.setattr(arms, "_server", lambda: InProcess())
        yield folder


def table(place: Path, name: str, **options: Any) -> tuple[dict[str, Any], Path, str]:
    """Make a table; return its summary, a folder of its artifacts, and its run."""
    config = SuperclassTableConfig(**SHORT | {"data_root": str(place / "images")} | options)
    with tracking.open_run("superclass_table", name) as run:
        summary = superclass_table.run(config, run)
    return summary, Path(local_artifacts(MlflowClient().get_run(run.run_id).info.artifact_uri)), run.run_id


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "table" / "figures.csv").read_text().splitlines()))


@pytest.mark.slow
def test_cells_are_trained_once_and_the_table_says_what_they_reached(place: Path, monkeypatch, capsys):
    kept = []
    with monkeypatch.context() as patch:
        patch.setattr(arms.Pipeline, "lighten", lambda self: kept.append(self.config.keep_checkpoints))
        first, folder, run_id = table(place, "first", seeds="1", arms=ALL, keep_checkpoints="all")
    assert first["cells"] == 4 and kept == ["all"] * 4  # the frozen features are the contrast's before training
    found = {(row["arm"], row["images"]): float(row["all"]) for row in rows(folder)}
    names = ["frozen", "contrast", "contrast+pseudo", "both", "both, argmax"]
    assert set(found) == {(name, where) for name in names for where in ("unlabelled", "test")} | {("ceiling", "test")}
    children = MlflowClient().search_runs(["1"], f"tags.`mlflow.parentRunId` = '{run_id}'")
    metrics = {child.data.tags["taxon.arm"]: child.data.metrics for child in children}
    for arm in ("contrast", "contrast+pseudo", "both"):
        assert found[arm, "test"] == metrics[arm]["test/v2_all"]
    assert found["both, argmax", "test"] == metrics["both"]["classifier/test/v2_all"]
    assert found["ceiling", "test"] == metrics["ceiling"]["classifier/test/v2_all"]
    assert {child.data.tags["taxon.select_by"] for child in children if child.data.tags["taxon.arm"] == "ceiling"} == {"oracle"}
    gap = next(
        one
        for one in first["differences"]
        if (one["arm"], one["against"], one["images"], one["part"]) == ("both", "contrast", "test", "all")
    )
    assert gap["mean"] == pytest.approx(found["both", "test"] - found["contrast", "test"]) and gap["low"] is None
    assert (folder / "plots" / "arms.png").is_file() and "| ceiling - contrast |" in (folder / "table" / "table.md").read_text()
    capsys.readouterr()
    trained = []
    fit = train.Training.fit
    monkeypatch.setattr(train.Training, "fit", lambda self: (trained.append(self.config.seed), fit(self))[1])
    second, folder, _run = table(place, "second", seeds="1,2", arms="contrast,both")
    assert set(trained) == {2} and capsys.readouterr().err.count("seed 1") == 2
    assert second["cells"] == 4 and {row["seed"] for row in rows(folder)} == {"1", "2"}
    both = json.loads((folder / "table" / "figures.json").read_text())
    assert [row["all"] for row in both if row["arm"] == "both" and row["seed"] == 1 and row["images"] == "test"] == [found["both", "test"]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"arms": "contrast,bth"}, "arms = 'contrast,bth': there is no 'bth'; did you mean 'both'?"),
        ({"arms": " "}, "arms = ' ' names none"),
        ({"arms": "both"}, "against = 'contrast' is not among arms = 'both'"),
        ({"seeds": "1,x"}, "seeds = '1,x': give whole numbers"),
        ({"seeds": "-1"}, "seeds = '-1': give numbers from 0"),
        ({"superclass_name": "trees", "dataset": "auto"}, "superclass_name = 'trees' names one; give superclasses = trees"),
        ({"superclasses": "trees"}, "superclasses = 'trees' are CIFAR-100's, but dataset = folder"),
        ({"seed": 2}, "seed = 2 is one; give seeds = 2"),
        ({"objective": "both"}, "objective = both is what the arms differ in; name the arms"),
        (
            {"superclasses": "trees", "dataset": "auto", "images": "mine.csv"},
            "superclasses = 'trees' are CIFAR-100's, but dataset = folder",
        ),
        ({"superclasses": "tree", "dataset": "cifar100"}, "superclass_name: there is no superclass 'tree'"),
        ({"total_epochs": 2}, "total_epochs = 2 leaves nothing after stage1_epochs = 2"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(options, says):
    config = SuperclassTableConfig(**SHORT | options)
    assert refused(lambda: superclass_table.run(config, None)).startswith(says)


def test_images_whose_classes_nobody_knows_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))
    heap = make_heap(tmp_path)
    config = SuperclassTableConfig(**SHORT | {"dataset": "auto", "data_root": str(heap), "novel_classes": "", "labels_per_class": 0})
    run = MemoryRun(tmp_path / "run")
    assert "heap: a table compares by true classes, and nobody knows them here; use" in refused(lambda: superclass_table.run(config, run))


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, [""]),
        ({"dataset": "auto"}, [""]),
        ({"dataset": "auto", "data_root": "data"}, None),
        ({"dataset": "auto", "data_root": "elsewhere"}, None),
    ],
)
def test_own_images_are_one_row_and_without_a_word_the_table_is_cifar_100_s(tmp_path, given, names):
    options = {"data_root": str(tiny.make_images(tmp_path / "images")), "dataset": "folder"} | given
    found = superclass_table.asked(SuperclassTableConfig(**options))[0]
    assert found == names if names else "trees" in found


def test_the_table_is_of_superclasses_with_novel_classes_and_those_that_served_come_last():
    names, seeds, chosen = superclass_table.asked(SuperclassTableConfig(seeds="3,1,3"))
    assert seeds == [3, 1] and names[-3:] == ["fruits_vegetables", "furniture", "electronic_devices"] and set(chosen) == set(names[-3:])
    assert set(names) == {one.name for one in SUPERCLASSES if one.novel} - {"mammals"}
