"""Distances and neighbour lists against plain NumPy, with the matrix held and without."""

import numpy as np
import pytest

from core.clustering.neighbours import build, distance_matrix


def points(n: int = 70) -> np.ndarray:
    found = np.random.default_rng(3).normal(size=(n, 5))
    found[11] = found[4]  # a copy ties exactly
    return found


def test_distances_are_the_euclidean_ones_symmetric_and_zero_between_copies():
    x = points()
    plain = np.linalg.norm(x[:, None] - x[None], axis=2)
    found = distance_matrix(x)
    np.testing.assert_allclose(found, plain, atol=3e-5)
    assert (found == found.T).all() and found[4, 11] == 0.0 and (np.diag(found) == 0).all()
    assert (found[4] == found[11]).all()


@pytest.mark.parametrize("dense_limit", [100, 10])
def test_lists_are_in_order_of_distance_then_index_without_the_point_itself(dense_limit):
    x = points()
    found = build(x, 6, dense_limit)
    assert found.complete and (found.matrix is None) == (dense_limit == 10)
    distances = distance_matrix(x)
    for i in range(len(x)):
        others = [j for j in np.argsort(distances[i], kind="stable") if j != i]
        assert found.order[i].tolist() == others
        assert found.nearest[i].tolist() == distances[i, others].tolist()


def test_blocks_give_the_same_distances_whether_the_matrix_is_held_or_not():
    x, rows, columns = points(), np.array([5, 0, 44]), np.array([1, 7, 30, 69])
    wanted = distance_matrix(x)[np.ix_(rows, columns)]
    for limit in (100, 10):
        matrix, i, j = build(x, 6, limit).block(rows, columns)
        np.testing.assert_array_equal(matrix[np.ix_(i, j)], wanted)
