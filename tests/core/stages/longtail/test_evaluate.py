"""Evaluating a checkpoint: what is written, on which data, by whose class frequencies."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from core.evaluation import compare
from core.stages import classification_report
from core.stages.longtail import evaluate, rebuild
from core.stages.longtail.config import LongtailEvaluateConfig
from tests.core.stages.longtail import tiny
from tests.memory_run import MemoryRun

ON_CPU = {"gpu": "cpu", "threads": 1, "num_workers": 1, "use_amp": False}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, longtail_images):
    """Return (folder, summary) of a published tiny training that errs a little."""
    with pytest.MonkeyPatch.context() as patch:
        place = tiny.Workplace(tmp_path_factory.mktemp("trained"), patch, longtail_images)
        summary, run = place.publish(epochs=1, lr=1e-4)
        return run.place, summary


def evaluated(folder, at, monkeypatch, **options):
    """Evaluate a run's best checkpoint; return (result, run)."""
    monkeypatch.setenv("TAXON_CACHE", str(at / "cache"))
    monkeypatch.setattr("core.plots.figure.save", lambda _figure, path: path.write_bytes(b""))
    run = MemoryRun(at)
    return evaluate.run(LongtailEvaluateConfig(checkpoint=str(folder), **ON_CPU | options), run), run


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_part_is_evaluated_into_files_figures_and_intervals(trained, tmp_path, monkeypatch, capsys, part):
    folder, summary = trained
    result, run = evaluated(folder, tmp_path, monkeypatch, part=part)
    at = tmp_path / "evaluation" / part
    with open(at / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(tiny.COUNTS[part])
    right = np.mean([row["true"] == row["predicted"] for row in rows])
    assert result["metrics"]["accuracy"] == right == json.loads((at / "metrics.json").read_text())["accuracy"]
    if part != "train":
        assert result["metrics"]["accuracy"] == summary["best_metrics"][f"best/{part}/accuracy"]
    low, high = json.loads((at / "intervals.json").read_text())["accuracy"]
    assert low <= right <= high
    assert run.history[-1][0][f"best/{part}/accuracy"] == right
    with open(at / "per_class.csv", newline="") as file:
        per_class = {row["name"]: row for row in csv.DictReader(file)}
    assert [int(per_class[name]["train_images"]) for name in ("bar", "cross", "dot", "ring")] == list(tiny.COUNTS["train"])
    assert "95 % interval" in capsys.readouterr().out and run.datasets[0][-1] == "evaluation"
    assert list((tmp_path / "cache" / "tmp").glob("*")) == []


def test_the_intervals_seed_and_the_number_of_mistakes_are_those_asked_for(trained, tmp_path, monkeypatch):
    seen, shown = [], []
    interval, worst = compare.bootstrap_interval, classification_report.mistake_plots.worst_mistakes
    monkeypatch.setattr(compare, "bootstrap_interval", lambda *args, seed, **more: seen.append(seed) or interval(*args, seed=seed, **more))
    monkeypatch.setattr(classification_report.mistake_plots, "worst_mistakes", lambda *args: shown.append(args[2]) or worst(*args))
    evaluated(trained[0], tmp_path, monkeypatch, seed=7, worst=3)
    assert set(seen) == {7} and shown == [3]


def test_other_images_are_judged_by_the_frequencies_of_the_training(trained, tmp_path, monkeypatch):
    other = {"train": (3, 5, 8, 12), "val": (2, 2, 2, 2), "test": (4, 4, 4, 4)}
    images = tiny.make_images(tmp_path / "other" / "glyphs", seed=4, counts=other)
    opened = rebuild.open_checkpoint(LongtailEvaluateConfig(checkpoint=str(trained[0]), data_root=str(images), **ON_CPU))
    assert opened.m.data.class_counts.tolist() == list(tiny.COUNTS["train"]) and len(opened.m.data.test) == 16
    result, _run = evaluated(trained[0], tmp_path, monkeypatch, data_root=str(images))
    with open(tmp_path / "evaluation" / "test" / "per_class.csv", newline="") as file:
        recall = {row["name"]: float(row["recall"]) for row in csv.DictReader(file)}
    assert result["metrics"]["tail_accuracy"] == recall["ring"]


def test_data_root_goes_before_every_folder_of_the_training(tmp_path, monkeypatch, longtail_images):
    place = tiny.Workplace(tmp_path, monkeypatch, longtail_images)
    parts = {f"{part}_dir": str(longtail_images / part) for part in ("train", "val", "test")}
    _summary, run = place.publish(epochs=1, data_root="", **parts)
    copy = shutil.copytree(longtail_images, tmp_path / "copy" / "glyphs")
    (copy / "test" / "bar" / "00.png").unlink()
    whole, fewer = (
        rebuild.open_checkpoint(LongtailEvaluateConfig(checkpoint=str(run.place), data_root=root, **ON_CPU)) for root in ("", str(copy))
    )
    assert (len(whole.m.data.test), len(fewer.m.data.test)) == (11, 10)
    only_test = rebuild.open_checkpoint(LongtailEvaluateConfig(checkpoint=str(run.place), test_dir=str(copy / "test"), **ON_CPU))
    assert (len(only_test.m.data.val), len(only_test.m.data.test)) == (13, 10)
