"""How many classes there are: exact where classes are apart, the same for the same points, within bounds; how many clusters are wanted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clustering import n_classes
from core.clustering.n_classes import Count, estimate, wanted
from core.errors import UserError


def blobs(n: int, each: int = 25, seed: int = 0, spread: float = 0.06) -> tuple[np.ndarray, np.ndarray]:
    """L2-normalised features (n * each, 16) around `n` random directions, and their classes."""
    rng = np.random.default_rng([seed, n])
    truth = np.repeat(np.arange(n), each)
    features = np.linalg.qr(rng.standard_normal((16, 16)))[0][truth] + spread * rng.standard_normal((len(truth), 16))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), truth


def labelled(truth: np.ndarray, n_known: int) -> np.ndarray:
    """Labels of two fifths of the first `n_known` classes, -1 elsewhere."""
    return np.where((truth < n_known) & (np.arange(len(truth)) % 5 < 2), truth, -1)


@pytest.mark.parametrize(("n", "n_known"), [(n, k) for n in (2, 3, 5, 8, 12) for k in sorted({0, 1, 2, n // 2, n - 1})])
def test_separable_classes_are_counted_exactly_with_and_without_labels(n, n_known):
    features, truth = blobs(n)
    count = estimate(features, labelled(truth, n_known), 1)
    assert count.n == n and count.low <= n <= count.high


@pytest.mark.parametrize("n_known", [1, 2, 3, 5])
def test_classes_that_are_all_labelled_are_all_there_is(n_known):
    features, truth = blobs(n_known)
    assert estimate(features, labelled(truth, n_known), 1).n == n_known


def test_names_of_labels_and_order_of_points_do_not_matter():
    features, truth = blobs(5, spread=0.2)
    labels = labelled(truth, 3)
    count = estimate(features, labels, 1)
    assert count == estimate(features, labels, 1) == estimate(features, np.where(labels >= 0, 7 * labels + 30, -1), 1)
    order = np.random.default_rng(5).permutation(len(truth))
    assert count == estimate(features[order], labels[order], 1)


def test_classes_of_very_different_size_are_counted():
    features, truth = blobs(5, each=80)
    kept = (truth != 4) | (np.arange(len(truth)) % 5 == 0)
    assert estimate(features[kept], labelled(truth, 3)[kept], 1).n == 5


def test_the_interval_is_around_the_estimate_and_the_curve_has_its_best_in_it():
    features, truth = blobs(5, spread=0.3)
    count = estimate(features, labelled(truth, 3), 1)
    numbers, scores = zip(*count.curve, strict=True)
    assert list(numbers) == sorted(set(numbers)) and count.low <= count.n <= count.high
    assert count.low <= numbers[int(np.argmax(scores))] <= count.high
    assert dict(count.curve)[count.n] >= max(scores) - n_classes.AS_GOOD


@pytest.mark.parametrize("n_known", [0, 1, 2])
@pytest.mark.parametrize("n_points", [1, 2, 3, 5])
def test_a_handful_of_points_is_no_more_classes_than_it_can_show(n_points, n_known):
    features, _ = blobs(n_points, each=1)
    labels = np.where(np.arange(n_points) < n_known, np.arange(n_points), -1)
    count = estimate(features, labels, 1)
    assert max(1, min(n_known, n_points)) <= count.low <= count.n <= count.high <= n_points


@pytest.mark.parametrize("n_known", [0, 1])
def test_copies_of_one_image_are_one_class(n_known):
    labels = np.where(np.arange(40) < 10 * n_known, 0, -1)
    count = estimate(np.repeat(blobs(2)[0][:1], 40, axis=0), labels, 1)
    assert (count.n, count.low, count.high) == (1, 1, 1)


def test_copies_of_a_few_images_are_no_more_classes_than_images():
    features = np.repeat(blobs(4, each=1)[0], 30, axis=0)
    assert estimate(features, np.full(120, -1), 1).n == 4


def test_of_many_points_a_sample_is_counted_that_keeps_every_label(monkeypatch):
    monkeypatch.setattr(n_classes, "MOST", 200)
    monkeypatch.setattr(n_classes, "LABELS", 60)
    features, truth = blobs(5, each=300)
    labels = np.where((truth < 3) & (np.arange(1500) % 300 < 12), truth, -1)
    seen = []
    search = n_classes._search
    monkeypatch.setattr(n_classes, "_search", lambda points: seen.append(points) or search(points))
    assert estimate(features, labels, 1).n == 5
    (points,) = seen
    assert len(points.x) == 200 and np.bincount(points.codes[points.codes >= 0]).tolist() == [12, 12, 12]


def test_large_numbers_are_found_without_trying_all():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(40), 12)
    features = rng.standard_normal((40, 48))[truth] + 0.1 * rng.standard_normal((480, 48))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    count = estimate(features.astype(np.float32), labelled(truth, 30), 1)
    assert abs(count.n - 40) <= 4 and len(count.curve) < 40


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="classes are counted"):
        estimate(np.full((9, 4), np.nan, np.float32), np.full(9, -1), 1)


@settings(max_examples=12, deadline=None)
@given(
    n_points=st.integers(1, 30), n_known=st.integers(0, 4), n_labels=st.integers(0, 30), copies=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_any_points_have_a_number_within_bounds(n_points, n_known, n_labels, copies, seed):
    rng = np.random.default_rng(seed)
    features = np.repeat(rng.standard_normal((n_points, 5)), copies, axis=0).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    n = len(features)
    labels = np.where((np.arange(n) < n_labels) & (n_known > 0), rng.integers(0, max(n_known, 1), n), -1)
    count = estimate(features, labels, seed)
    least = max(1, len(np.unique(labels[labels >= 0])))
    assert isinstance(count, Count) and least <= count.low <= count.n <= count.high <= max(least, n)


@pytest.mark.parametrize(
    ("n", "n_known", "over_cluster", "n_points", "expected"),
    [
        (5, 4, 1.0, 900, 5),
        (5, 4, 2.0, 900, 10),
        (5, 0, 1.5, 900, 8),
        (5, 4, 1.3, 900, 7),
        (5, 4, 99.0, 60, 60),
        (5, 4, 1.0, 3, 4),
        (0, 0, 1.0, 9, 1),
    ],
)
def test_so_many_times_as_many_clusters_within_what_points_can_fill(n, n_known, over_cluster, n_points, expected):
    assert wanted(n, n_known, over_cluster, n_points) == expected
