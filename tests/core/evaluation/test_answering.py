"""The answer for blobs: names, sizes, positions, facts in closed form, the same each time."""

import dataclasses

import numpy as np
import pytest

from core.evaluation import answering, confidence
from core.evaluation.answering import category_names
from tests.core.evaluation.answers import alone, blobs, made


def test_categories_say_what_the_blobs_are():
    answer, temperature, radii, reliability = made()
    assert [(c.cluster, c.name, c.known, c.size) for c in answer.categories] == [
        (0, "oak", True, 60),
        (1, "pine", True, 50),
        (2, "novel 1", False, 40),
    ]
    features, truth = blobs()
    for category in answer.categories:
        members = features[truth == category.cluster]
        assert category.cohesion == pytest.approx(np.mean(members @ members.mean(0)) / np.linalg.norm(members.mean(0)), abs=0.01)
        assert 0.7 < category.separation < 1.2 and category.nearest != category.cluster
        assert len(category.exemplars) == len(category.borders) == 16
        assert not set(category.exemplars) & {*category.borders, *category.outliers}
        assert set(answer.clusters[[*category.exemplars, *category.borders]]) == {category.cluster}
    assert [c.expected_purity for c in answer.categories] == [1.0, 1.0, None]
    assert radii.shape == (3,) and (radii > 0).all() and temperature == confidence.DEFAULT_TEMPERATURE
    labels, shares = reliability
    assert shares.shape == (len(labels), 3) and (shares.argmax(axis=1) == labels).all()


def test_exemplars_are_the_most_central_and_borders_the_least_sure():
    answer = made().answer
    features, _ = blobs()
    for category in answer.categories:
        members = np.flatnonzero(answer.clusters == category.cluster)
        centre = features[members].mean(axis=0)
        assert features[category.exemplars[0]] @ centre > np.median(features[members] @ centre)
        assert np.diff(answer.margins[list(category.borders)]).min() >= 0


def test_facts_count_what_is_there():
    facts = made(facts={"interval": [2, 4]}).answer.facts
    assert facts["parts"] == {"labelled": 37, "unlabelled": 98, "validation": 15}
    assert {name: facts[name] for name in ("images", "n_classes", "n_known", "n_novel", "held_out", "held_out_accuracy")} == {
        "images": 150,
        "n_classes": 3,
        "n_known": 2,
        "n_novel": 1,
        "held_out": 15,
        "held_out_accuracy": 1.0,
    }
    assert facts["stability"] > 0.99 and facts["silhouette"] > 0.5 and facts["interval"] == [2, 4]
    assert facts["core_share"] + facts["border_share"] + facts["outlier_share"] == pytest.approx(1.0)


def test_fewer_than_twenty_held_out_images_are_no_calibration():
    few, enough = made().answer.facts, made((90, 90, 40)).answer.facts
    assert (few["held_out"], few["calibrated"], few["temperature"], few["calibration_error"]) == (15, False, 0.1, None)
    assert few["calibration"] == "not calibrated: too few held-out labelled images"
    assert (enough["held_out"], enough["calibrated"]) == (24, True)
    assert enough["temperature"] == pytest.approx(0.1, rel=0.2) and enough["calibration_error"] < 0.05
    assert made(temperature=0.02).answer.facts["temperature"] == 0.02


def test_without_a_label_nothing_is_said_of_accuracy():
    features, truth = blobs()
    ids = tuple(map(str, range(150)))
    rows = answering.Rows(ids, ids, ids, ("",) * 150, ("unlabelled",) * 150, alone(150))
    centres = np.stack([features[truth == c].mean(axis=0) for c in range(3)])
    answer = answering.make(rows, features, truth, centres, category_names((), truth, 3), 0, 1)
    assert [c.name for c in answer.answer.categories] == ["novel 1", "novel 2", "novel 3"]
    assert answer.answer.facts["held_out_accuracy"] is None and answer.reliability is None
    assert not answer.answer.facts["calibrated"]


def test_the_same_input_gives_the_same_answer_and_another_seed_the_same_clusters():
    one, again, other = (dataclasses.asdict(made(seed=seed).answer) for seed in (0, 0, 0))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert one["digest"] == other["digest"] != made((60, 50, 41)).answer.digest


def test_halves_part_a_cluster_that_holds_two_blobs():
    features, truth = blobs((30, 50))
    ids = tuple(map(str, range(80)))
    rows = answering.Rows(ids, ids, ids, ("",) * 80, ("unlabelled",) * 80, alone(80))
    answer = answering.make(rows, features, np.zeros(80, int), features.mean(0, keepdims=True), ("novel 1",), 0, 1).answer
    assert np.array_equal(answer.halves, 1 - truth)  # the larger half is 0
    assert answer.categories[0].separation == 0 and answer.categories[0].nearest == -1
    assert set(answer.confidences) == {1.0}


def test_no_two_near_duplicates_are_exemplars():
    group = np.where(np.arange(150) < 30, 7, -1)
    answer = made(change=lambda rows: dataclasses.replace(rows, duplicates=group)).answer
    assert sum(row < 30 for row in answer.categories[0].exemplars) <= 1
    assert (answer.facts["duplicates"], answer.facts["duplicate_groups"]) == (30, 1)


def test_novel_names_go_from_large_to_small_and_pass_over_names_that_labels_have():
    clusters = np.repeat([0, 1, 2, 3], [5, 1, 3, 2])
    assert category_names(("novel 2",), clusters, 5) == ("novel 2", "novel 4", "novel 1", "novel 3", "novel 5")


def test_novel_names_pass_over_every_name_in_use_however_it_is_written():
    clusters = np.repeat([0, 1, 2], [5, 4, 3])
    assert category_names(("Novel  1",), clusters, 3) == ("Novel  1", "novel 2", "novel 3")
    assert category_names((), clusters, 3, ("novel 2", "oak")) == ("novel 1", "novel 3", "novel 4")


def test_an_empty_category_is_listed():
    features, truth = blobs()
    ids = tuple(map(str, range(150)))
    rows = answering.Rows(ids, ids, ids, ("",) * 150, ("unlabelled",) * 150, alone(150))
    centres = np.concatenate([np.stack([features[truth == c].mean(axis=0) for c in range(3)]), np.eye(16)[-1:]])
    found = answering.make(rows, features, truth, centres, category_names(KNOWN_TWO, truth, 4), 2, 1)
    assert (found.answer.categories[3].size, found.answer.categories[3].exemplars, found.radii[3]) == (0, (), 0.0)


KNOWN_TWO = ("oak", "pine")


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_heap_of_a_few_images_has_an_answer(n):
    features = np.eye(n, 4, dtype=np.float32)
    ids = tuple(map(str, range(n)))
    rows = answering.Rows(ids, ids, ids, ("",) * n, ("unlabelled",) * n, alone(n))
    answer = answering.make(rows, features, np.arange(n), features, category_names((), np.arange(n), n), 0, 0).answer
    assert len(answer) == n and np.isfinite(answer.places).all() and answer.facts["stability"] is None


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="do not belong together"):
        answering.Rows(("a",), (), ("a",), ("",), ("unlabelled",), alone(1))
    rows = answering.Rows(("a",), ("a",), ("a",), ("",), ("unlabelled",), alone(1))
    with pytest.raises(ValueError, match="no answer"):
        answering.make(rows, np.eye(2), np.zeros(2, int), np.eye(2), ("a", "b"), 0, 1)
    with pytest.raises(ValueError, match="do not belong together"):
        answering.make(rows, np.eye(1), np.ones(1, int), np.eye(1), ("a",), 0, 1)
