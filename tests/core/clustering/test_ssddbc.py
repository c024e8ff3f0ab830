"""SSDDBC equals the seven steps carried out one by one, and keeps its promises at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from core.clustering import _joining, neighbours
from core.clustering.ssddbc import cluster
from core.errors import UserError
from tests.benchmarks import features as real
from tests.core.clustering import oracle


def mixture(seed, n, d, n_classes, spread, labelled_share, lattice, shuffled):
    """Overlapping blobs; `lattice` puts many points on the same few places, `shuffled` labels contradict the geometry."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, n_classes, n)
    points = 2 * rng.normal(size=(n_classes, d))[classes] + spread * rng.normal(size=(n, d))
    if lattice:
        points = np.round(points * 2) / 2
    labels = rng.permutation(classes) if shuffled else classes
    return points, labels, rng.random(n) < labelled_share


def blobs_with_novel_classes(seed=0):
    """Six well separated classes of 40 in 8 dimensions; classes 4 and 5 are never labelled."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(6), 40)
    points = 3 * rng.normal(size=(6, 8))[truth] + 0.4 * rng.normal(size=(240, 8))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points, truth, (truth < 4) & (rng.random(240) < 0.5)


def digits(n=400):
    """Real images of digits, centred and normalised; 8 and 9 are never labelled."""
    images, truth = load_digits(return_X_y=True)
    points = images[:n] - images[:n].mean(0)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points, truth[:n], (truth[:n] < 8) & (np.arange(n) % 5 > 0)


def assert_same(fast, slow):
    np.testing.assert_array_equal(fast.core_mask, slow.core_mask)
    np.testing.assert_array_equal(fast.labels, slow.labels)
    np.testing.assert_array_equal(fast.densities, slow.densities)
    assert (fast.cross_entropy, fast.silhouette, fast.score) == pytest.approx((slow.cross_entropy, slow.silhouette, slow.score), abs=1e-9)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(3, 120),
    d=st.integers(1, 6),
    n_classes=st.integers(1, 5),
    spread=st.sampled_from((0.3, 0.8, 1.5)),
    labelled_share=st.sampled_from((0.0, 0.2, 0.5, 0.8, 1.0)),
    lattice=st.booleans(),
    shuffled=st.booleans(),
    k=st.integers(1, 14),
    percentile=st.sampled_from((0, 20, 40, 55, 70, 85, 95, 100)),
    blocked=st.booleans(),
)
@example(50, 120, 2, 4, 0.3, 0.5, True, False, 5, 95, False)
def test_labels_core_points_and_score_equal_the_oracle(
    seed, n, d, n_classes, spread, labelled_share, lattice, shuffled, k, percentile, blocked
):
    points, labels, mask = mixture(seed, n, d, n_classes, spread, labelled_share, lattice, shuffled)
    k = min(k, n - 1)
    fast = cluster(points, labels, mask, k, percentile, dense_limit=0 if blocked else n)
    assert_same(fast, oracle.cluster(points, labels, mask, k, percentile))


@pytest.mark.parametrize("dense_limit", [0, 10**6])
@pytest.mark.parametrize(("n", "k", "percentile"), [(600, 3, 40), (600, 8, 97), (900, 5, 90)])
def test_points_whose_neighbour_list_is_too_short_are_still_exact(monkeypatch, n, k, percentile, dense_limit):
    monkeypatch.setattr(neighbours, "DEPTH", 8)
    monkeypatch.setattr(neighbours, "TILE_BYTES", 8 * n * 100)
    data = mixture(n, n, 4, 6, 0.8, 0.4, False, False)
    assert_same(cluster(*data, k, percentile, dense_limit=dense_limit), oracle.cluster(*data, k, percentile))


@pytest.mark.parametrize(("k", "percentile"), [(3, 40), (5, 70), (12, 55), (10, 90)])
def test_blobs_with_novel_classes_equal_the_oracle(k, percentile):
    data = blobs_with_novel_classes()
    assert_same(cluster(*data, k, percentile), oracle.cluster(*data, k, percentile))


def test_separated_blobs_are_found_novel_ones_included():
    points, truth, mask = blobs_with_novel_classes()
    found = cluster(points, truth, mask, 10, 50)
    assert found.n_clusters == 6
    assert {tuple(np.unique(found.labels[truth == c])) for c in range(6)} == {(c,) for c in range(6)}
    assert found.cross_entropy == 0 and found.silhouette > 0.5


@pytest.mark.parametrize(("k", "percentile"), [(3, 40), (4, 80), (9, 90)])
def test_real_digits_equal_the_oracle(k, percentile):
    data = digits()
    assert_same(cluster(*data, k, percentile), oracle.cluster(*data, k, percentile))


@pytest.mark.slow
@pytest.mark.parametrize(("k", "percentile"), [(3, 40), (3, 90), (6, 95), (12, 90)])
def test_real_features_of_trees_equal_the_oracle(trees, k, percentile):
    assert_same(cluster(*trees, k, percentile), oracle.cluster(*trees, k, percentile))


@pytest.fixture(scope="module")
def trees():
    try:
        return real.superclass_features()
    except UserError as missing:
        pytest.skip(f"real features need data and weights: {missing}")


@pytest.mark.parametrize(("k", "percentile"), [(2, 0), (3, 60), (7, 85)])
def test_all_points_in_one_place_tie_without_harm(k, percentile):
    points, labels, mask = np.ones((40, 3)), np.arange(40) % 2, np.arange(40) < 20
    assert_same(cluster(points, labels, mask, k, percentile), oracle.cluster(points, labels, mask, k, percentile))


def test_copies_of_a_point_are_at_distance_zero_and_equally_far_from_others():
    rng = np.random.default_rng(3)
    points = rng.normal(size=(97, 300))
    points[50:] = points[:47]
    distances = neighbours.distance_matrix(points)
    assert (distances[np.arange(47), np.arange(50, 97)] == 0).all()
    assert not np.signbit(distances).any()
    np.testing.assert_array_equal(distances[:47, :47], distances[50:, 50:])
    np.testing.assert_array_equal(distances, distances.T)


def test_neighbours_in_blocks_equal_neighbours_from_the_whole_matrix(monkeypatch):
    points = np.round(np.random.default_rng(4).normal(size=(700, 5)), 1)
    dense = neighbours.build(points, 20, dense_limit=700)
    monkeypatch.setattr(neighbours, "TILE_BYTES", 8 * 700 * 64)
    blocked = neighbours.build(points, 20, dense_limit=699)
    assert blocked.matrix is None and dense.matrix is not None
    np.testing.assert_array_equal(blocked.order, dense.order)
    np.testing.assert_array_equal(blocked.nearest, dense.nearest)


def test_distance_from_a_mean_point_follows_from_the_distances_of_its_members():
    points = np.random.default_rng(5).normal(size=(30, 7))
    distances = neighbours.distance_matrix(points).astype(np.float64)
    by_identity = oracle.distances_from_mean(distances, [2, 9, 17], range(30))
    np.testing.assert_allclose(by_identity, np.linalg.norm(points - points[[2, 9, 17]].mean(0), axis=1), rtol=1e-5)


def test_small_clusters_prefer_the_first_larger_cluster_of_their_label():
    points = np.concatenate([np.linspace(0, 1, 6), np.linspace(10, 11, 6), [3.0, 3.1], [4.0]])[:, None]
    membership = np.repeat(np.array([0, 1, 2, 3], np.int32), (6, 6, 2, 1))
    codes = np.where(membership == 1, 0, -1)
    codes[12] = 0
    near = neighbours.build(points, 3)
    np.testing.assert_array_equal(_joining.absorb_small(near, membership, codes, 1), np.repeat([0, 1, 1, 0], (6, 6, 2, 1)))


def test_nothing_merges_when_all_clusters_are_small():
    membership = np.repeat(np.array([0, 1], np.int32), 3)
    near = neighbours.build(np.arange(6.0)[:, None], 3)
    np.testing.assert_array_equal(_joining.absorb_small(near, membership, np.full(6, -1), 0), membership)


def test_truth_of_unlabelled_points_is_never_used():
    points, truth, mask = blobs_with_novel_classes()
    hidden = truth.copy()
    hidden[~mask] = np.random.default_rng(1).integers(-(10**9), 10**9, (~mask).sum())
    unknown = np.where(mask, truth.astype(float), np.nan)
    objects = np.array([int(t) if m else None for t, m in zip(truth, mask, strict=True)], dtype=object)
    expected = cluster(points, truth, mask, 5, 60)
    for labels in (hidden, unknown, objects):
        found = cluster(points, labels, mask, 5, 60)
        np.testing.assert_array_equal(found.labels, expected.labels)
        assert found.score == expected.score


def test_any_integers_name_the_labels():
    points, truth, mask = blobs_with_novel_classes()
    renamed = np.array([-7, 10**12, 3, 99, 0, 1])[truth]
    np.testing.assert_array_equal(cluster(points, renamed, mask, 5, 60).labels, cluster(points, truth, mask, 5, 60).labels)


def test_input_arrays_are_left_as_they_were():
    points, truth, mask = blobs_with_novel_classes()
    copies = points.copy(), truth.copy(), mask.copy()
    cluster(points, truth, mask, 5, 60)
    for before, after in zip(copies, (points, truth, mask), strict=True):
        np.testing.assert_array_equal(before, after)


def test_percentile_100_keeps_one_core_point_and_one_cluster():
    points, truth, mask = blobs_with_novel_classes()
    found = cluster(points, truth, mask, 5, 100)
    assert found.n_core == 1 and found.n_clusters == 1 and found.silhouette == 0


def test_without_labels_the_cross_entropy_is_zero():
    points, truth, _ = blobs_with_novel_classes()
    found = cluster(points, truth, np.zeros(240, bool), 5, 60)
    assert found.cross_entropy == 0 and found.score == 3 * found.silhouette


def test_without_unlabelled_points_the_silhouette_is_zero():
    points, truth, _ = blobs_with_novel_classes()
    found = cluster(points, truth, np.ones(240, bool), 5, 60)
    assert found.silhouette == 0 and found.score == -found.cross_entropy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 240}, "k = 240 needs at least 241 points and there are 240"),
        ({"k": 0}, "k must be a whole number of at least 1"),
        ({"k": 2.5}, "k must be a whole number of at least 1"),
        ({"density_percentile": 101}, "between 0 and 100"),
        ({"density_percentile": float("nan")}, "between 0 and 100"),
        ({"labelled_mask": np.ones(3, bool)}, "need shape"),
        ({"labels": np.ones(241)}, "need shape"),
        ({"labels": np.full(240, 0.5)}, "must be integers"),
        ({"labels": np.full(240, "oak")}, "must be integers"),
        ({"labelled_mask": np.full(240, 2)}, "only true and false"),
        ({"features": np.full((240, 4), np.nan)}, "NaN or infinity"),
        ({"features": np.full((240, 4), 1e300)}, "normalise"),
        ({"features": np.ones(240)}, "shape"),
        ({"features": np.full((240, 2), "x")}, "numeric"),
    ],
)
def test_mistakes_are_told_in_one_line(change, message):
    points, truth, mask = blobs_with_novel_classes()
    arguments = {"features": points, "labels": truth, "labelled_mask": mask, "k": 5, "density_percentile": 60} | change
    with pytest.raises(UserError, match=message) as caught:
        cluster(**arguments)
    assert "\n" not in str(caught.value)
