"""Cross-validation in a real store: one child a fold, mean and deviation, every file, nothing done twice."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from core.evaluation import compare
from core.places import cache_home
from core.stages.clip import cross_validation, train
from tests.core.stages.clip.tiny_clip import children, folder_of
from tests.core.stages.discovery.test_train import Killed
from tests.core.stages.tiny import refused


def test_every_fold_is_a_child_and_the_parent_has_mean_and_deviation(client, folded, clip_images):
    summary, parent = folded()
    folds = children(client, parent)
    assert sorted(folds) == ["fold 1", "fold 2"] and {child.info.status for child in folds.values()} == {"FINISHED"}
    each = [folds[name].data.metrics["best/test/accuracy"] for name in ("fold 1", "fold 2")]
    assert summary["mean"]["best/test/accuracy"] == pytest.approx(np.mean(each))
    assert summary["std"]["best/test/accuracy"] == pytest.approx(np.std(each, ddof=1))
    metrics = client.get_run(parent).data.metrics
    assert metrics["cv/mean/best/test/accuracy"] == pytest.approx(np.mean(each)) and "fold_1/val/accuracy" in metrics
    files = folder_of(client, parent)
    assert json.loads((files / "cv_summary.json").read_text()) == json.loads(json.dumps(summary))
    info = json.loads((files / "folds_info.json").read_text())
    assert sorted(info[0]["images"]["test"] + info[1]["images"]["test"]) == sorted(
        path.relative_to(clip_images).as_posix() for path in clip_images.rglob("*.png")
    )
    assert info[0]["class_counts"]["test"] == {"bar": 7, "cross": 5, "dot": 4, "ring": 3} and info[0]["absent_classes"]["test"] == []
    assert json.loads((files / "config.json").read_text())["n_splits"] == 2
    history = json.loads((files / "history.json").read_text())
    assert [(fold["fold"], len(fold["history"])) for fold in history] == [(1, 1), (2, 1)]
    with open(files / "out_of_fold.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 38 and summary["out_of_fold"]["accuracy"][0] == pytest.approx(np.mean([r["true"] == r["predicted"] for r in rows]))


def test_an_interrupted_cross_validation_goes_on_with_the_fold_it_was_in(client, folded, monkeypatch):
    finish, epochs = train.ClipTraining.finish_epoch, []

    def spied(self, epoch, metrics):
        finish(self, epoch, metrics)
        epochs.append((self.config.fold, epoch))
        if epochs == [(1, 1), (1, 2), (2, 1)]:
            raise Killed

    monkeypatch.setattr(train.ClipTraining, "finish_epoch", spied)
    with pytest.raises(Killed):
        folded(epochs=2)
    summary, parent = folded(epochs=2)
    assert epochs[3:] == [(2, 2)] and sorted(children(client, parent)) == ["fold 2"]
    assert "taxon.reused.fold_1" in client.get_run(parent).data.tags
    assert len(summary["folds"]) == 2 and not list((cache_home() / "work").iterdir())


def test_images_of_a_group_are_resampled_together(client, folded):
    summary, parent = folded(group_pattern=r"/(\d+)_")
    with open(folder_of(client, parent) / "out_of_fold.csv") as file:
        rows = list(csv.DictReader(file))
    ids = {row["image"]: row["group"] for row in rows}
    assert len(rows) == 38 and all(ids[image] == ids[image.replace("_0.png", "_1.png")] for image in ids) and len(set(ids.values())) == 7
    code = {name: i for i, name in enumerate(sorted({row["true"] for row in rows}))}
    labels, predicted = (np.array([code[row[column]] for row in rows]) for column in ("true", "predicted"))
    expected = compare.bootstrap_interval(labels, predicted, seed=42, groups=np.array([int(row["group"]) for row in rows]))
    assert summary["out_of_fold"]["accuracy"] == pytest.approx([expected.value, expected.low, expected.high])
    assert expected != compare.bootstrap_interval(labels, predicted, seed=42)


def test_one_fold_alone_is_a_training(client, folded):
    summary, parent = folded(fold=2)
    assert "best_metrics" in summary and not children(client, parent)


def test_the_older_protocol_scores_on_the_fold_that_chose_the_epoch(folded):
    summary, _parent = folded(val_fraction=0.0)
    assert summary["scored_on"] == "val" and "best/val/accuracy" in summary["mean"]
    assert "the held-out fold itself chose" in cross_validation.note("x", summary)


def test_fewer_images_of_a_class_than_folds_fails_before_anything_is_trained(client, folded, monkeypatch):
    monkeypatch.setattr(train, "prepare", lambda *_: pytest.fail("prepared"))
    assert "class 'ring' has 6 images, fewer than n_splits = 7" in refused(lambda: folded(n_splits=7))
