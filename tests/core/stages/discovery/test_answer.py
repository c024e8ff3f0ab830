"""The answer of a pipeline on a heap: its files, what they say, and that no truth is in them, nor in anything but the figures."""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from core import digest
from core.data import heap
from core.evaluation import answer_files
from core.serving import discovery as serving
from core.stages.discovery import materials
from tests.core.conftest import store_template  # noqa: F401  (fixture)
from tests.core.stages import tiny
from tests.core.stages.discovery.short import discover, store_in

pytestmark = pytest.mark.slow

FILES = ("assignments.csv", "clusters.csv", "clusters.json", "contents.csv", "duplicates.csv", "outliers.csv", "skipped.csv", "suggest.csv")
TRUTHS = ("none", "true", "shuffled")


def make_heap(root: Path) -> Path:
    """Write a heap: bars, crosses and dots of which half are labelled, rings that nobody labelled, and a file that is no image."""
    made = tiny.make_images(root / "made")
    for number, name in enumerate(tiny.CLASSES):
        for i, path in enumerate(sorted((made / "train" / name).iterdir())):
            known = name != "ring" and i % 2
            target = root / "heap" / (f"labelled/{name}" if known else f"unlabelled/day{i % 3}") / f"{number}{i:02d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (root / "heap" / "unlabelled" / "broken.png").write_bytes(b"no image")
    return root / "heap"


def told(root: Path, truth: str) -> Any:
    """Return a reader of the heap that adds the truth of its unlabelled images, or a wrong one."""

    def read(config: Any) -> Any:
        data = heap.load(root)
        if truth == "none":
            return data
        hidden, labels = np.flatnonzero(~data.given), data.train.labels.copy()
        labels[hidden] = [int(Path(data.train.ids[i]).name[0]) for i in hidden]
        if truth == "shuffled":
            labels[hidden] = np.random.default_rng(0).permutation(labels[hidden])
        train = dataclasses.replace(data.train, labels=labels)
        return dataclasses.replace(data, train=train, class_names=(*data.class_names, "ring"))

    return read


@pytest.fixture(scope="module")
def answered(store_template, tmp_path_factory):  # noqa: F811
    """Return the folder of each truth's run."""
    store = tmp_path_factory.mktemp("answered")
    root = make_heap(tmp_path_factory.mktemp("images"))
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        store_in(store, store_template, patch)
        for truth in TRUTHS:
            patch.setattr(materials, "read", told(root, truth))
            found[truth] = discover(store, truth, data_root=str(root))
    return found


def test_one_row_an_image_known_clusters_by_their_label_and_novel_ones_numbered(answered):
    rows = answer_files.rows_of(answered["none"] / "assignments.csv")
    made = [row["id"] for row in rows]
    assert len(made) == len(set(made)) == 4 * tiny.TRAIN and sum(row["part"] in ("labelled", "validation") for row in rows) == 21
    labelled = [row for row in rows if row["label"]]
    assert {row["label"] for row in labelled} == {"bar", "cross", "dot"} and all(
        row["id"].split("/")[1] == row["label"] for row in labelled
    )
    assert all(row["name"] == row["label"] and row["known"] == "true" for row in rows if row["part"] == "labelled")
    clusters = json.loads((answered["none"] / "clusters.json").read_text())["clusters"]
    names = [one["name"] for one in clusters]
    assert names[:3] == ["bar", "cross", "dot"] and names[3:] == [f"novel {i + 1}" for i in range(len(names) - 3)]
    sizes = [one["size"] for one in clusters]
    assert sum(sizes) == len(rows) and sizes[3:] == sorted(sizes[3:], reverse=True)


def test_every_file_that_a_person_gets_is_there(answered):
    folder = answered["none"]
    assert all((folder / name).stat().st_size for name in (*FILES, "report.html", "plots/gallery.png"))
    assert not (folder / "plots" / "confusion.png").exists() and (answered["true"] / "plots" / "confusion.png").exists()
    (skipped,) = answer_files.rows_of(folder / "skipped.csv")
    assert Path(skipped["path"]).name == "broken.png" and skipped["reason"]


def test_the_served_model_gives_the_answers_of_the_table(answered):
    model = json.loads((answered["none"] / "model" / "model.json").read_text())
    clusters = json.loads((answered["none"] / "clusters.json").read_text())["clusters"]
    assert [(one["name"], one["known"]) for one in model["clusters"]] == [(one["name"], one["known"]) for one in clusters]
    predictor = serving.DiscoveryPredictor(answered["none"] / "model")
    rows = [row for row in answer_files.rows_of(answered["none"] / "assignments.csv") if row["part"] == "unlabelled"]
    images = [base64.b64encode(Path(row["path"]).read_bytes()).decode() for row in rows]
    answers = predictor.predict(pandas.DataFrame({"image": images}))
    assert [one["class"] for one in answers] == [row["name"] for row in rows]
    assert [one["confidence"] for one in answers] == pytest.approx([float(row["confidence"]) for row in rows], abs=2e-6)


@pytest.mark.parametrize("truth", TRUTHS[1:])
def test_with_truth_without_and_with_a_wrong_one_all_but_the_figures_is_equal_to_a_bit(answered, truth):
    """Weights and metadata of the model, clusters and assignments; the figures alone differ."""
    without, other = answered["none"], answered[truth]
    for name in ("assignments.csv", "clusters.csv", "contents.csv", "suggest.csv", "model/model.safetensors", "model/model.json"):
        assert digest.of_file(other / name) == digest.of_file(without / name), name
    run = {folder: json.loads((folder / "clusters.json").read_text()) for folder in (without, other)}
    assert run[without]["clusters"] == run[other]["clusters"] and run[without]["digest"] == run[other]["digest"]
    said = {folder: json.loads((folder / "summary.json").read_text()) for folder in (without, other)}
    assert said[without]["weights_digest"] == said[other]["weights_digest"]
    assert "unlabelled/v2_all" not in said[without]["table"]["selected model"]
    assert 0 < said[other]["table"]["selected model"]["unlabelled/v2_all"] <= 1


def test_the_truth_changes_the_figures(answered):
    figures = [json.loads((answered[truth] / "summary.json").read_text())["table"]["selected model"] for truth in TRUTHS[1:]]
    assert figures[0]["unlabelled/v2_all"] > figures[1]["unlabelled/v2_all"]
