"""The report against plain loops over the definitions, and against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss

from core.data.classification import Attribute, tail_classes
from core.errors import UserError
from core.evaluation.classification import N_BINS, Report, calibration, report

quick = settings(derandomize=True, deadline=None, max_examples=60)
seeds = st.integers(0, 2**32 - 1)


def scene(seed: int, n_classes: int | None = None) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """Return labels (some classes without), probabilities without ties, names, and training counts that all differ."""
    rng = np.random.default_rng(seed)
    n_classes = n_classes or int(rng.integers(2, 12))
    present = rng.choice(n_classes, int(rng.integers(1, n_classes + 1)), replace=False)
    labels = rng.choice(present, int(rng.integers(1, 40)))
    logits = rng.normal(0, 2, (len(labels), n_classes))
    logits[np.arange(len(labels)), labels] += rng.choice([0, 2], len(labels))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    counts = rng.permutation(np.concatenate([[19, 20, 100, 101], np.arange(1, 19)])[:n_classes])
    return labels, probabilities, [f"class {c}" for c in range(n_classes)], counts


def plain_average_precision(positive: list[bool], scores: list[float]) -> float:
    """Return sum_k (R_k - R_{k-1}) P_k over the distinct thresholds, highest first."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        hits = [is_positive for is_positive, score in zip(positive, scores, strict=True) if score >= threshold]
        recall = sum(hits) / sum(positive)
        total += (recall - recall_before) * sum(hits) / len(hits)
        recall_before = recall
    return total


def plain_ece(right: list[bool], confidence: list[float], n_bins: int) -> float:
    """Return sum_m |B_m|/N |acc - conf|, bin m holding the confidences in (m/M, (m+1)/M]."""
    total = 0.0
    for m in range(n_bins):
        inside = [i for i, c in enumerate(confidence) if m / n_bins < c <= (m + 1) / n_bins]
        if inside:
            gap = sum(right[i] for i in inside) / len(inside) - sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(gap)
    return total


def plain_rows(labels: list[int], predicted: list[int], probabilities: list[list[float]], counts: list[int]) -> list[dict]:
    """Return a row a class by counting."""
    rows = []
    for c, count in enumerate(counts):
        true = [i for i, label in enumerate(labels) if label == c]
        said = [i for i, label in enumerate(predicted) if label == c]
        hits = len(set(true) & set(said))
        row = {"name": f"class {c}", "train_images": count, "evaluated_images": len(true)}
        row |= dict.fromkeys(("recall", "precision", "f1", "average_precision"))
        if true:
            row["recall"] = hits / len(true)
            row["precision"] = hits / len(said) if said else None
            row["f1"] = 2 * hits / (len(true) + len(said))
            row["average_precision"] = plain_average_precision([label == c for label in labels], [p[c] for p in probabilities])
        rows.append(row)
    return rows


def plain_metrics(labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray) -> tuple[dict[str, float], list[dict]]:
    """Return the metrics and rows by loops over the definitions."""
    labels, table, counts = labels.tolist(), probabilities.tolist(), counts.tolist()
    predicted = [p.index(max(p)) for p in table]
    right = [said == label for said, label in zip(predicted, labels, strict=True)]
    rows = plain_rows(labels, predicted, table, counts)

    def mean(score: str, classes: list[int]) -> float | None:
        values = [rows[c][score] for c in classes if rows[c]["evaluated_images"]]
        return sum(values) / len(values) if values else None

    classes = list(range(len(counts)))
    metrics = {
        "accuracy": sum(right) / len(right),
        "balanced_accuracy": mean("recall", classes),
        "tail_accuracy": mean("recall", sorted(classes, key=lambda c: counts[c])[: max(1, round(len(counts) / 4))]),
        "many_accuracy": mean("recall", [c for c in classes if counts[c] > 100]),
        "medium_accuracy": mean("recall", [c for c in classes if 20 <= counts[c] <= 100]),
        "few_accuracy": mean("recall", [c for c in classes if counts[c] < 20]),
        "macro_f1": mean("f1", classes),
        "mAP": mean("average_precision", classes),
        "ece": plain_ece(right, [max(p) for p in table], 15),
        "nll": -sum(np.log(p[label]) for p, label in zip(table, labels, strict=True)) / len(labels),
    }
    if len(counts) > 5:
        ranks = [sum(other > p[label] for other in p) for p, label in zip(table, labels, strict=True)]
        metrics["top5_accuracy"] = sum(rank < 5 for rank in ranks) / len(ranks)
    return {name: value for name, value in metrics.items() if value is not None}, rows


@quick
@given(seeds)
def test_report_equals_plain_loops(seed):
    labels, probabilities, names, counts = scene(seed)
    found = report(labels, probabilities, names, counts)
    metrics, rows = plain_metrics(labels, probabilities, counts)
    assert found.metrics == pytest.approx(metrics)
    for row, expected in zip(found.per_class, rows, strict=True):
        assert row == pytest.approx(expected)
    assert found.unscored == [names[c] for c in range(len(names)) if c not in labels]


@quick
@given(seeds)
def test_report_agrees_with_scikit_learn_where_it_has_the_metric(seed):
    labels, probabilities, names, counts = scene(seed)
    found, predicted = report(labels, probabilities, names, counts).metrics, probabilities.argmax(axis=1)
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, labels=np.unique(labels), average="macro"))
    assert found["nll"] == pytest.approx(log_loss(labels, probabilities, labels=range(len(names))))
    if set(predicted) <= set(labels):
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))


@quick
@given(seeds)
def test_the_order_of_images_and_the_numbering_of_classes_do_not_matter(seed):
    labels, probabilities, names, counts = scene(seed)
    first = report(labels, probabilities, names, counts)
    rng = np.random.default_rng(seed)
    images, classes = rng.permutation(len(labels)), rng.permutation(len(names))
    renamed = np.argsort(classes)[labels]
    second = report(renamed[images], probabilities[images][:, classes], [names[c] for c in classes], counts[classes])
    assert second.metrics == pytest.approx(first.metrics)
    for row in second.per_class:
        assert row == pytest.approx(first.per_class[names.index(row["name"])])


@quick
@given(seeds, st.integers(1, 20))
def test_calibration_equals_a_loop_over_bins(seed, n_bins):
    labels, probabilities, _, _ = scene(seed)
    bins = calibration(labels, probabilities, n_bins)
    right, confidence = probabilities.argmax(axis=1) == labels, probabilities.max(axis=1)
    assert bins.ece == pytest.approx(plain_ece(right.tolist(), confidence.tolist(), n_bins))
    assert bins.counts.sum() == len(labels)
    assert np.nansum(bins.accuracy * bins.counts) == pytest.approx(right.sum())
    assert np.nansum(bins.confidence * bins.counts) == pytest.approx(confidence.sum())
    assert (np.isnan(bins.accuracy) == (bins.counts == 0)).all()


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    bins = calibration(np.array([0, 0]), np.array([[0.5, 0.5], [1.0, 0.0]]), 2)
    assert bins.counts.tolist() == [1, 1]
    assert bins.accuracy.tolist() == [1.0, 1.0]
    assert bins.ece == pytest.approx(0.25)
    assert N_BINS == 15


def one_hot(predicted: list[int], n_classes: int) -> np.ndarray:
    return np.eye(n_classes)[predicted]


def test_a_case_worked_out_by_hand():
    # Class 2 has no evaluated image but is predicted once, class 3 has one that is missed and is never predicted.
    found = report(np.array([0, 0, 1, 1, 3]), one_hot([0, 2, 1, 1, 1], 4), ["a", "b", "c", "d"], np.array([300, 50, 19, 5]))
    assert found.unscored == ["c"]
    assert found.metrics == pytest.approx(
        {
            "accuracy": 3 / 5,
            "balanced_accuracy": (1 / 2 + 1 + 0) / 3,
            "tail_accuracy": 0.0,
            "many_accuracy": 1 / 2,
            "medium_accuracy": 1.0,
            "few_accuracy": 0.0,
            "macro_f1": (2 / 3 + 4 / 5 + 0) / 3,
            "mAP": ((1 / 2 + 1 / 2 * 2 / 5) + 2 / 3 + 1 / 5) / 3,
            "ece": 2 / 5,
            "nll": -2 / 5 * np.log(np.finfo(float).eps),
        }
    )
    assert found.per_class[2] == {
        "name": "c",
        "train_images": 19,
        "evaluated_images": 0,
        "recall": None,
        "precision": None,
        "f1": None,
        "average_precision": None,
    }
    assert found.per_class[3]["precision"] is None and found.per_class[3]["recall"] == 0.0


def test_groups_without_evaluated_images_are_left_out():
    found = report(np.array([0, 0]), one_hot([0, 0], 4), list("abcd"), np.array([101, 100, 20, 19])).metrics
    assert found["many_accuracy"] == 1.0
    assert not {"medium_accuracy", "few_accuracy", "tail_accuracy", "top5_accuracy"} & found.keys()


def test_the_tail_of_61_classes_without_one_that_was_not_evaluated():
    counts = np.arange(61) + 1
    labels = np.delete(np.arange(61), 7)
    predicted = np.where(labels < 10, 0, labels)
    found = report(labels, one_hot(predicted, 61), [str(c) for c in range(61)], counts)
    assert len(tail_classes(counts)) == 15
    assert found.metrics["tail_accuracy"] == pytest.approx((1 + 5) / 14)
    assert found.unscored == ["7"]


def test_top5_contains_what_argmax_takes_even_among_ties():
    found = report(np.array([0, 4, 5]), np.full((3, 6), 1 / 6), list("abcdef"), np.ones(6, np.int64)).metrics
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["top5_accuracy"] == pytest.approx(2 / 3)


def crops() -> dict[str, Attribute]:
    """Return apple scab general and serious, apple healthy, corn rust serious."""
    return {
        "crop": Attribute(("apple", "corn"), np.array([0, 0, 0, 1])),
        "disease": Attribute(("scab", "healthy", "rust"), np.array([0, 0, 1, 2])),
        "severity": Attribute(("general", "serious", "none"), np.array([0, 1, 2, 1])),
    }


def hierarchical(attributes: dict[str, Attribute]) -> Report:
    """Right; only the severity is wrong; the disease is; the crop and the disease are, but not the severity."""
    return report(np.array([0, 0, 0, 1]), one_hot([0, 1, 2, 3], 4), list("abcd"), np.ones(4, np.int64), attributes)


def test_attributes_of_the_predicted_class_are_scored():
    found = hierarchical(crops()).metrics
    names = ("accuracy", "crop_accuracy", "disease_accuracy", "severity_accuracy", "accuracy_severity_merged")
    assert [found[name] for name in names] == [1 / 4, 3 / 4, 1 / 2, 1 / 2, 1 / 2]


@pytest.mark.parametrize("missing", ["crop", "disease", "severity"])
def test_severity_is_merged_only_where_all_three_are_known(missing):
    attributes = {name: attribute for name, attribute in crops().items() if name != missing}
    found = hierarchical(attributes).metrics
    assert "accuracy_severity_merged" not in found and f"{missing}_accuracy" not in found
    assert "accuracy_severity_merged" not in hierarchical({}).metrics


def test_metrics_and_rows_are_plain_numbers():
    found = hierarchical(crops())
    assert all(type(value) is float for value in found.metrics.values())
    assert {type(value) for row in found.per_class for value in row.values()} <= {str, int, float, type(None)}


@pytest.mark.parametrize(
    "labels, probabilities, error, said",
    [
        ([], np.zeros((0, 3)), UserError, "no images to evaluate"),
        ([0, 1], [[0.5, 0.5], [np.nan, 1]], UserError, "1 of 2 images"),
        ([0, 1], [[0.5, 0.5], [np.inf, 0]], UserError, "not finite"),
        ([0, 1], [[0.5, 0.5], [3.0, -1.0]], ValueError, "row 1 is no probabilities"),
        ([0, 1], [[0.5, 0.5], [1.5, -0.5]], ValueError, "smallest -0.5"),
        ([0], [[1.0]], ValueError, "at least two classes"),
        ([0, 2], [[0.5, 0.5]] * 2, ValueError, "label 2 .row 1. is outside 0..1"),
        ([-1, 0], [[0.5, 0.5]] * 2, ValueError, "label -1"),
        ([0, 1], [[0.5, 0.5]], ValueError, "2 labels need"),
        ([0, 1], [0.5, 0.5], ValueError, "2 labels need"),
    ],
)
def test_what_cannot_be_scored_is_refused(labels, probabilities, error, said):
    probabilities = np.array(probabilities)
    width = probabilities.shape[-1]
    with pytest.raises(error, match=said) as raised:
        report(np.array(labels, np.int64), probabilities, [str(c) for c in range(width)], np.ones(width, np.int64))
    assert "\n" not in str(raised.value)
    with pytest.raises(error):
        calibration(np.array(labels, np.int64), probabilities)


def test_facts_about_another_number_of_classes_are_refused():
    labels, probabilities = np.array([0, 1]), one_hot([0, 1], 3)
    with pytest.raises(ValueError, match="2 class names"):
        report(labels, probabilities, ["a", "b"], np.ones(3, np.int64))
    with pytest.raises(ValueError, match="2 training counts"):
        report(labels, probabilities, list("abc"), np.ones(2, np.int64))
    with pytest.raises(ValueError, match="attribute 'crop'"):
        report(labels, probabilities, list("abc"), np.ones(3, np.int64), crops())
    with pytest.raises(ValueError, match="n_bins"):
        calibration(labels, probabilities, 0)
