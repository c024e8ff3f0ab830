"""Small clusters merge by label or by distance, and sparse points join the nearest cluster: on a line, where it can be seen."""

import numpy as np

from core.clustering._joining import absorb_small, join_sparse, label_counts
from core.clustering.neighbours import build


def line(*places: float):
    return build(np.array(places, np.float64)[:, None], 3)


def test_labels_are_counted_by_cluster_and_others_left_out():
    membership, codes = np.array([0, 0, 1, -1, 1]), np.array([1, -1, 0, 1, 0])
    assert label_counts(membership, codes, 2, 2).tolist() == [[0, 1], [2, 0]]


def test_a_small_cluster_goes_to_the_nearest_large_one_and_ids_close_up():
    neighbours = line(0, 1, 2, 3, 10, 11, 12, 13, 8, 8.5)
    membership = np.array([0, 0, 0, 0, 2, 2, 2, 2, 1, 1])
    assert absorb_small(neighbours, membership, np.full(10, -1), 0).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]


def test_a_common_label_decides_before_the_distance():
    neighbours = line(0, 1, 2, 3, 10, 11, 12, 13, 8, 8.5)
    membership = np.array([0, 0, 0, 0, 2, 2, 2, 2, 1, 1])
    codes = np.array([0, -1, -1, -1, 1, -1, -1, -1, 0, -1])
    assert absorb_small(neighbours, membership, codes, 2).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]


def test_nothing_merges_where_all_are_small_or_none_is():
    neighbours, small = line(0, 1, 5, 6), np.array([0, 0, 1, 1])
    assert absorb_small(neighbours, small, np.full(4, -1), 0) is small
    large = np.zeros(4, int)
    assert absorb_small(neighbours, large, np.full(4, -1), 0) is large


def test_sparse_points_join_by_the_mean_distance_to_three_core_members():
    # 4.0 is nearest to the one at 5, but the mean to the right's three nearest (5, 9, 9.5) is 3.8 and to the left's 3.0
    neighbours = line(0, 1, 2, 5, 9, 9.5, 4)
    membership = np.array([0, 0, 0, 1, 1, 1, -1])
    assert join_sparse(neighbours, membership).tolist() == [0, 0, 0, 1, 1, 1, 0]
    assert join_sparse(neighbours, np.array([0, 0, 0, 0, 0, 0, -1])).tolist() == [0] * 7
