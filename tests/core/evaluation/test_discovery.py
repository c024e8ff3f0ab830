"""Clusters of features scored on declared images, and what model selection may see of them."""

from __future__ import annotations

import numpy as np
import pytest

from core.data.images import ArrayImages, DiscoveryData, ImageSet
from core.data.problem import pose
from core.data.splits import make_split
from core.evaluation import discovery

CENTRES = np.eye(3)


def images(part: str, n: int) -> ImageSet:
    labels = np.repeat(np.arange(3), n)
    pixels = np.zeros((3 * n, 1, 1, 3), np.uint8)
    return ImageSet(tuple(f"{part}/{i}" for i in range(3 * n)), labels, ArrayImages(pixels))


def features(data: ImageSet, seed: int) -> np.ndarray:
    found = CENTRES[data.labels] + np.random.default_rng(seed).normal(size=(len(data), 3)) * 0.05
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def world():
    data = DiscoveryData("three", images("train", 20), images("test", 5), ("a", "b", "c"), frozenset((0, 1)))
    split = make_split(data.train.labels, data.known_classes, 0.5, 0.2, 1)
    train, test = features(data.train, 0), features(data.test, 1)
    posed = pose(data, split)
    return posed, train, test, discovery.cluster(posed.data, split, train, test, 3, 1)


def test_separable_classes_are_all_found_on_both_parts(world):
    (data, split, truth), _train, _test, found = world
    metrics = discovery.report(truth, split, found, ("v2",))
    assert metrics == {f"{part}/v2_{which}": 1.0 for part in ("unlabelled", "test") for which in ("all", "old", "new")}
    assert found.train[split.labelled].tolist() == data.train.labels[split.labelled].tolist()


def test_a_classifier_s_answer_is_the_nearest_direction_and_a_labelled_image_has_its_class(world):
    (data, split, truth), train, test, _found = world
    prototypes = np.array([[0, 9.0, 0], [0.1, 0, 0], [0, 0, 2.0]], np.float32)  # known classes the wrong way round
    found = discovery.classify(data, split, train, test, prototypes)
    assert found.test.tolist() == [1] * 5 + [0] * 5 + [2] * 5
    assert found.train[split.labelled].tolist() == data.train.labels[split.labelled].tolist()
    others = np.concatenate([split.unlabelled, split.validation])
    assert found.train[others].tolist() == np.array([1, 0, 2])[truth.train[others]].tolist()
    assert discovery.label_free(data, split, found, train)["val/accuracy_old"] == 0.0
    assert np.linalg.norm(found.result.centres, axis=1) == pytest.approx(1)


def test_centred_features_have_no_common_part_and_unit_length(world):
    (_data, split, _truth), train, test, _found = world
    used = np.concatenate([split.labelled, split.unlabelled])
    moved, moved_test = discovery.centred(split, train, test)
    wanted = train - train[used].mean(axis=0)
    assert moved == pytest.approx(wanted / np.linalg.norm(wanted, axis=1, keepdims=True), abs=1e-6)
    assert np.linalg.norm(moved_test, axis=1) == pytest.approx(1)


def test_selection_sees_held_out_labels_and_the_silhouette_only(world):
    (data, split, _truth), train, _test, found = world
    metrics = discovery.label_free(data, split, found, train)
    assert metrics.keys() == {"selection/silhouette", "val/accuracy_old"}
    assert metrics["val/accuracy_old"] == 1.0 and metrics["selection/silhouette"] > 0.8


def test_the_score_of_a_selection_is_what_its_name_says():
    metrics = {"val/accuracy_old": 0.5, "selection/silhouette": 0.25, "selection/hidden": 0.75, "unlabelled/v2_all": 0.75}
    chosen = {by: discovery.selection_score(metrics, by, 7) for by in ("score", "val", "hidden", "last", "oracle")}
    assert chosen == {"score": 0.75, "val": 0.5, "hidden": 0.625, "last": 7.0, "oracle": 0.75}


def test_an_epoch_is_judged_by_who_answers_then():
    metrics = {"val/accuracy_old": 0.5, "selection/silhouette": 0.25, "unlabelled/v2_all": 0.75, "n_clusters": 4.0}
    other = {"classifier/val/accuracy_old": 0.625, "classifier/selection/silhouette": 0.25, "classifier/unlabelled/v2_all": 0.5}
    both = metrics | other
    answers = {by: discovery.of_answer(both, by) for by in ("auto", "kmeans", "classifier")}
    assert [answers[by]["val/accuracy_old"] for by in answers] == [0.625, 0.5, 0.625]
    assert answers["auto"]["unlabelled/v2_all"] == 0.5 and answers["auto"]["n_clusters"] == 4.0
    assert discovery.of_answer(both | {"classifier/selection/silhouette": 0.0}, "auto")["unlabelled/v2_all"] == 0.75
    assert discovery.of_answer(metrics, "classifier") == discovery.of_answer(metrics, "auto") == metrics


def test_nameless_clusters_are_called_after_the_novel_class_they_hold_most_of():
    labels = ("cat", "dog", "dog", "fox", "fox")
    found = discovery.name_novel(labels, ("cat", "0", "0", "0", "1"), (True, False, False, False, False), ("dog", "fox"))
    assert found == ("cat", "dog", "dog", "dog", "fox")
