"""The grid shares work between cells and still gives each cell's own result; the choice follows the score."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples

from core.clustering import neighbours
from core.clustering.grid import Cell, _choice, search
from core.clustering.silhouette import mean_silhouettes
from core.clustering.ssddbc import cluster
from core.errors import UserError
from tests.core.clustering import oracle
from tests.core.clustering.test_ssddbc import blobs_with_novel_classes, digits, mixture

KS, PERCENTILES = (3, 4, 8), (40, 62.5, 90, 100)


@pytest.fixture(scope="module", params=["blobs", "digits", "overlapping", "lattice"])
def data(request):
    return {
        "blobs": blobs_with_novel_classes,
        "digits": lambda: digits(300),
        "overlapping": lambda: mixture(1, 250, 3, 5, 1.5, 0.5, False, False),
        "lattice": lambda: mixture(2, 200, 2, 4, 0.8, 0.5, True, True),
    }[request.param]()


def test_every_cell_equals_the_oracle(data):
    found = search(*data, KS, PERCENTILES)
    assert list(found.cells) == [(k, percentile) for k in KS for percentile in PERCENTILES]
    for row, (key, cell) in enumerate(found.cells.items()):
        slow = oracle.cluster(*data, *key)
        np.testing.assert_array_equal(found.partitions[row], slow.labels)
        assert (cell.n_clusters, cell.n_core, cell.n_points) == (slow.labels.max() + 1, slow.core_mask.sum(), len(data[0]))
        assert (cell.score, cell.cross_entropy, cell.silhouette) == pytest.approx(
            (slow.score, slow.cross_entropy, slow.silhouette), abs=1e-9
        )


def test_best_is_the_full_result_of_its_cell(data):
    best = search(*data, KS, PERCENTILES).best
    alone = cluster(*data, best.k, best.density_percentile)
    np.testing.assert_array_equal(best.labels, alone.labels)
    np.testing.assert_array_equal(best.core_mask, alone.core_mask)
    np.testing.assert_array_equal(best.densities, alone.densities)
    assert (best.score, best.cross_entropy, best.silhouette) == (alone.score, alone.cross_entropy, alone.silhouette)


@pytest.mark.parametrize("max_workers", [1, 2, 5])
def test_workers_do_not_change_the_result(data, max_workers):
    one, many = search(*data, KS, PERCENTILES, 1), search(*data, KS, PERCENTILES, max_workers)
    assert one.cells == many.cells
    np.testing.assert_array_equal(one.partitions, many.partitions)


def test_blocks_do_not_change_the_result(data, monkeypatch):
    whole = search(*data, KS, PERCENTILES)
    monkeypatch.setattr(neighbours, "DEPTH", 20)
    monkeypatch.setattr(neighbours, "TILE_BYTES", 8 * len(data[0]) * 32)
    blocked = search(*data, KS, PERCENTILES, dense_limit=10)
    assert whole.cells == blocked.cells
    np.testing.assert_array_equal(whole.best.labels, blocked.best.labels)


def test_order_and_repetition_of_the_axes_do_not_matter():
    data = blobs_with_novel_classes()
    assert search(*data, (8, 3, 3, 4), (90, 40.0, 40)).cells == search(*data, (3, 4, 8), (40, 90)).cells


def cell(score, n_clusters=4):
    return Cell(score, 0.0, 0.0, n_clusters, 10, 100)


@pytest.mark.parametrize(
    ("cells", "chosen"),
    [
        ({(3, 40): cell(1.0), (3, 45): cell(2.0), (4, 40): cell(1.5)}, (3, 45)),
        ({(4, 40): cell(1.0), (3, 90): cell(1.0), (3, 45): cell(1.0)}, (3, 45)),
        ({(3, 40): cell(9.0, 1), (3, 45): cell(-5.0)}, (3, 45)),
        ({(3, 40): cell(9.0, 100), (3, 45): cell(-5.0)}, (3, 45)),
        ({(3, 100): cell(9.0), (3, 45): cell(-5.0)}, (3, 45)),
        ({(3, 40): cell(-1.0, 1), (4, 40): cell(0.0, 100)}, (4, 40)),
        ({(3, 100): cell(0.0, 1)}, (3, 100)),
    ],
)
def test_choice(cells, chosen):
    assert _choice(cells) == chosen


def test_one_cluster_is_never_chosen_while_another_cell_exists(data):
    found = search(*data, KS, PERCENTILES)
    assert not found.cells[found.best.k, found.best.density_percentile].degenerate or all(c.degenerate for c in found.cells.values())


@pytest.mark.parametrize("max_workers", [1, 3])
def test_batched_silhouettes_equal_scikit_learn(max_workers):
    points = np.random.default_rng(6).normal(size=(210, 4))
    partitions = np.random.default_rng(7).integers(0, 6, (5, 210))
    partitions[1, :] = np.arange(210) % 2
    wanted = np.arange(3, 210, 2)
    expected = [silhouette_samples(points, labels)[wanted].mean() for labels in partitions]
    found = mean_silhouettes(neighbours.build(points, 5), wanted, partitions, max_workers)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("ks", "percentiles", "message"), [([], [40], "no k"), ([3], [], "no density"), ([3, 240], [40], "k = 240")])
def test_mistakes_are_told_before_any_work(ks, percentiles, message):
    with pytest.raises(UserError, match=message):
        search(*blobs_with_novel_classes(), ks, percentiles)
