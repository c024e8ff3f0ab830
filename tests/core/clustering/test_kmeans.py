"""Semi-supervised k-means against a plain double-precision version of it, and the estimate of the number of clusters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from core.clustering import kmeans
from core.clustering.kmeans import assign, estimate_n_clusters, semi_supervised_kmeans
from core.errors import UserError

quick = settings(derandomize=True, deadline=None, max_examples=60)
seeds = st.integers(0, 2**32 - 1)


def problem(seed: int, n: int = 40, d: int = 3, n_classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return overlapping groups of points, labels that are no positions, and a mask that leaves one class out."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_classes + 1, n)
    features = rng.standard_normal((n_classes + 1, d))[truth] * 2 + rng.standard_normal((n, d)) + 5
    mask = (truth < n_classes) & (rng.random(n) < 0.4)
    return features.astype(np.float32), truth * 10 - 7, mask


def plain_run(features: np.ndarray, clamped: np.ndarray, n_clusters: int, draws: np.ndarray) -> tuple[np.ndarray, float]:
    """One initialisation point by point: `clamped` (N,) holds clusters or -1, `draws` the uniform numbers of k-means++."""
    n_classes = clamped.max() + 1
    centres = [features[clamped == c].mean(axis=0) for c in range(n_classes)]
    free = np.flatnonzero(clamped < 0)
    for draw in draws:
        squares = np.array([min((np.sum((features[i] - c) ** 2) for c in centres), default=1.0) for i in free])
        mass = np.cumsum(squares)
        centres.append(features[free[np.searchsorted(mass, draw * mass[-1], side="right")]])
    labels = clamped.copy()
    while True:
        previous = labels.copy()
        for i in free:
            labels[i] = np.argmin([np.sum((features[i] - c) ** 2) for c in centres])
        for cluster in range(n_clusters):
            if not np.any(labels == cluster):
                gaps = [np.sum((features[i] - centres[labels[i]]) ** 2) if np.sum(labels == labels[i]) > 1 else -1.0 for i in free]
                labels[free[np.argmax(gaps)]] = cluster
        if np.array_equal(labels, previous):
            return labels, sum(np.sum((features[i] - centres[labels[i]]) ** 2) for i in range(len(labels)))
        centres = [features[labels == c].mean(axis=0) for c in range(n_clusters)]


def plain_kmeans(features, labels, mask, n_clusters, rng, n_init):
    """The best of `n_init` plain runs."""
    clamped = np.full(len(labels), -1)
    classes = sorted(set(labels[mask].tolist()))
    for cluster, name in enumerate(classes):
        clamped[mask & (labels == name)] = cluster
    draws = rng.random((n_clusters - len(classes), n_init))
    runs = [plain_run(features.astype(np.float64), clamped, n_clusters, draws[:, run]) for run in range(n_init)]
    return min(runs, key=lambda run: round(run[1], 9))


@quick
@given(seeds, st.integers(3, 7))
def test_equals_the_plain_version(seed, n_clusters):
    features, labels, mask = problem(seed)
    found = semi_supervised_kmeans(features, labels, mask, n_clusters, np.random.default_rng(seed), n_init=3, tol=0.0)
    expected, inertia = plain_kmeans(features, labels, mask, n_clusters, np.random.default_rng(seed), 3)
    assert np.array_equal(found.labels, expected)
    assert found.inertia == pytest.approx(inertia, rel=1e-5)


@quick
@given(seeds, st.integers(3, 8), st.booleans())
def test_what_every_result_holds(seed, n_clusters, plain):
    features, labels, mask = problem(seed)
    mask &= not plain
    found = semi_supervised_kmeans(features, labels, mask, n_clusters, np.random.default_rng(seed), n_init=2)
    classes = np.unique(labels[mask])
    assert np.array_equal(found.labels[mask], np.searchsorted(classes, labels[mask]))
    assert sorted(set(found.labels.tolist())) == list(range(n_clusters))
    means = np.stack([features[found.labels == cluster].mean(axis=0) for cluster in range(n_clusters)])
    np.testing.assert_allclose(found.centres, means, atol=1e-4)
    assert found.inertia == pytest.approx(np.sum((features - means[found.labels]) ** 2), rel=1e-4)
    assert found.labels.dtype == np.int64 and found.centres.dtype == np.float32 and found.iterations >= 1


@quick
@given(seeds)
def test_only_the_generator_and_the_masked_labels_matter(seed):
    features, labels, mask = problem(seed)
    first = semi_supervised_kmeans(features, labels, mask, 5, np.random.default_rng(seed))
    hidden = np.where(mask, labels, -999 - np.arange(len(labels)))
    second = semi_supervised_kmeans(features.astype(np.float64), hidden, mask, 5, np.random.default_rng(seed))
    assert np.array_equal(first.labels, second.labels)
    assert first.inertia == second.inertia


def test_without_labels_it_is_as_good_as_scikit_learn():
    features, labels = (array[:600] for array in load_digits(return_X_y=True))
    nobody = np.zeros(len(labels), dtype=bool)
    found = semi_supervised_kmeans(features / 16, labels, nobody, 10, np.random.default_rng(0))
    with threadpool_limits(1):
        reference = KMeans(10, n_init=10, random_state=0).fit(features / 16)
    assert found.inertia <= 1.005 * reference.inertia_


def test_another_seed_gives_another_start():
    features, labels, _ = problem(1, n=200)
    nobody = np.zeros(200, dtype=bool)
    runs = [semi_supervised_kmeans(features, labels, nobody, 12, np.random.default_rng(seed), n_init=1).inertia for seed in range(5)]
    assert len(set(runs)) > 1


def test_empty_clusters_are_filled_where_all_points_are_copies():
    features = np.zeros((6, 2))
    mask = np.array([True, False, False, False, False, False])
    found = semi_supervised_kmeans(features, np.zeros(6, dtype=int), mask, 4, np.random.default_rng(0))
    assert found.labels[0] == 0
    assert set(found.labels.tolist()) == {0, 1, 2, 3}
    assert found.inertia == 0.0


def test_every_point_labelled_or_every_cluster_taken():
    features, labels, _ = problem(2)
    everybody = np.ones(len(labels), dtype=bool)
    found = semi_supervised_kmeans(features, labels, everybody, len(np.unique(labels)), np.random.default_rng(0))
    assert np.array_equal(found.labels, np.unique(labels, return_inverse=True)[1])
    half = np.arange(len(labels)) < 30
    taken = semi_supervised_kmeans(features, labels, half, len(np.unique(labels[half])), np.random.default_rng(0), tol=0.0)
    assert np.array_equal(assign(features, taken.centres)[~half], taken.labels[~half])


def test_blocks_change_nothing(monkeypatch):
    features, labels, mask = problem(5, n=300)
    whole = semi_supervised_kmeans(features, labels, mask, 6, np.random.default_rng(0))
    monkeypatch.setattr(kmeans, "_BLOCK_CELLS", 50)
    parts = semi_supervised_kmeans(features, labels, mask, 6, np.random.default_rng(0))
    assert np.array_equal(whole.labels, parts.labels)
    assert whole.inertia == pytest.approx(parts.inertia, rel=1e-6)


def test_assign_takes_the_nearest_centre_and_the_smaller_of_equal_ones():
    centres = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    assert assign(np.array([[1.9, 0.0], [-1.0, 0.0], [1.5, 5.0]]), centres).tolist() == [1, 0, 1]
    assert assign(np.zeros((0, 2)), centres).tolist() == []


def test_mistakes_are_said_in_one_line():
    features, labels, mask = problem(3)
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="n_clusters 2 cannot hold 3 labelled classes"):
        semi_supervised_kmeans(features, labels, mask, 2, rng)
    with pytest.raises(UserError, match="can fill"):
        semi_supervised_kmeans(features, labels, mask, 1000, rng)
    with pytest.raises(UserError, match="without labelled points"):
        estimate_n_clusters(features, labels, np.zeros(len(labels), dtype=bool), 2, 5, rng)
    with pytest.raises(UserError, match="no number of clusters to try"):
        estimate_n_clusters(features, labels, mask, 1, 2, rng)
    with pytest.raises(ValueError, match="do not fit"):
        semi_supervised_kmeans(features, labels[:-1], mask, 4, rng)
    with pytest.raises(ValueError, match="at least 1"):
        semi_supervised_kmeans(features, labels, mask, 4, rng, n_init=0)


def blobs(n_groups: int, n_labelled_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return well-separated groups of 20, of which the first ones are half labelled."""
    rng = np.random.default_rng(7)
    truth = np.repeat(np.arange(n_groups), 20)
    features = 8 * np.eye(n_groups)[truth] + rng.standard_normal((len(truth), n_groups))
    return features, truth, (truth < n_labelled_groups) & (np.arange(len(truth)) % 2 == 0)


@pytest.mark.parametrize("n_groups, n_labelled", [(9, 7), (14, 11)])
def test_estimate_finds_separated_groups(n_groups, n_labelled):
    features, truth, mask = blobs(n_groups, n_labelled)
    estimate = estimate_n_clusters(features, truth, mask, 2, 30, np.random.default_rng(0), n_init=8)
    assert abs(estimate - n_groups) <= 1


def test_estimate_reads_no_unlabelled_truth_and_follows_the_seed():
    features, truth, mask = blobs(9, 6)
    hidden = np.where(mask, truth, -1)
    runs = [estimate_n_clusters(features, labels, mask, 2, 20, np.random.default_rng(4)) for labels in (truth, hidden)]
    assert runs[0] == runs[1]


def test_estimate_never_goes_below_the_labelled_classes():
    features, truth, mask = blobs(6, 6)
    assert estimate_n_clusters(features, truth, mask, 1, 6, np.random.default_rng(0)) == 6


@pytest.mark.parametrize("low, high", [(2, 3), (2, 40), (1, 9), (5, 95)])
def test_estimate_looks_next_to_its_best_and_stays_in_range(monkeypatch, low, high):
    features, truth, mask = blobs(5, 2)
    tried = []

    def remember(features, labels, labelled_mask, n_clusters, rng, n_init):
        tried.append(n_clusters)
        return semi_supervised_kmeans(features, labels, labelled_mask, n_clusters, rng, 1)

    monkeypatch.setattr(kmeans, "semi_supervised_kmeans", remember)
    best = estimate_n_clusters(features, truth, mask, low, high, np.random.default_rng(1))
    assert len(tried) == len(set(tried))
    assert all(max(low, 2) <= k <= high for k in tried)
    assert all(k in tried for k in (best - 1, best + 1) if max(low, 2) <= k <= high)
