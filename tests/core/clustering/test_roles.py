"""What clusters stand for: the thresholds, the order of novel clusters, the choice of a cell, the splitting of large ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clustering.roles import MIXED, choose_cell, of_clusters, split_novel


def partition(*clusters):
    """(cluster ids, codes) from one list of (code, count) pairs a cluster; code -1 = unlabelled."""
    ids = [c for c, parts in enumerate(clusters) for _code, count in parts for _ in range(count)]
    codes = [code for parts in clusters for code, count in parts for _ in range(count)]
    return np.array(ids), np.array(codes)


FILLER = [(-1, 100)]  # a novel cluster that makes 2 % of all at least 2 points


@pytest.mark.parametrize(
    "cluster, known",
    [
        ([(0, 2), (-1, 3)], True),
        ([(0, 2), (-1, 2)], False),  # 4 members
        ([(0, 26), (-1, 74)], True),
        ([(0, 25), (-1, 75)], False),  # not more than a quarter labelled
        ([(0, 8), (1, 2)], True),
        ([(0, 79), (1, 21)], False),  # purity below 80 %
    ],
)
def test_a_known_cluster_has_five_members_over_a_quarter_labelled_four_fifths_pure(cluster, known):
    assert of_clusters(*partition(cluster, FILLER), 2).role[0] == (0 if known else MIXED)


@pytest.mark.parametrize(
    "cluster, novel",
    [
        ([(-1, 5)], True),
        ([(-1, 4)], False),
        ([(0, 10), (-1, 90)], True),
        ([(0, 11), (-1, 89)], False),  # more than a tenth labelled
    ],
)
def test_a_novel_cluster_has_five_members_and_at_most_a_tenth_labelled(cluster, novel):
    found = of_clusters(*partition(cluster, [(1, 50)]), 2)
    assert (found.role[0] >= 2) == novel and found.n_novel == int(novel)


@pytest.mark.parametrize("size, novel", [(20, True), (19, False)])
def test_a_novel_cluster_has_two_percent_of_all(size, novel):
    assert (of_clusters(*partition([(-1, size)], [(0, 1000 - size)]), 1).role[0] == 1) == novel


def test_novel_clusters_are_ordered_by_size_and_ties_by_cluster():
    found = of_clusters(*partition([(-1, 10)], [(0, 8)], [(-1, 30)], [(-1, 10)]), 1)
    assert found.role.tolist() == [2, 0, 1, 3] and found.n_novel == 3


def test_two_clusters_of_one_class_recover_one_class():
    assert of_clusters(*partition([(0, 5)], [(0, 5)], [(2, 5)]), 3).n_recovered == 2


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 2)), min_size=1, max_size=80), st.permutations(range(80)))
def test_roles_do_not_depend_on_the_order_of_points_and_every_role_is_one_of_three(pairs, order):
    _, ids = np.unique([cluster for cluster, _code in pairs], return_inverse=True)
    codes = np.array([code for _cluster, code in pairs])
    found = of_clusters(ids, codes, 3)
    shuffled = np.array([place for place in order if place < len(ids)])
    again = of_clusters(ids[shuffled], codes[shuffled], 3)
    assert np.array_equal(found.role, again.role)
    assert sorted(found.role[found.role >= 3]) == list(range(3, 3 + found.n_novel))
    assert found.role.min() >= MIXED and found.n_recovered == len(set(found.role[(found.role >= 0) & (found.role < 3)]))


CODES = np.array([0] * 6 + [1] * 6 + [-1] * 10)
BOTH = np.array([0] * 6 + [1] * 6 + [2] * 10)  # both known classes and a novel cluster
ONE = np.array([0] * 6 + [1] * 3 + [2] * 3 + [3] * 10)  # class 1 in pieces of 3
MERGED = np.array([0] * 12 + [1] * 10)  # no class recovered
NO_NOVEL = np.array([0] * 6 + [1] * 6 + [0] * 5 + [1] * 5)  # classes recovered, nothing novel


@pytest.mark.parametrize(
    "partitions, scores, eligible, chosen",
    [
        ([MERGED, ONE, BOTH], [9.0, 5.0, 1.0], [True] * 3, 2),  # recovered classes before score
        ([BOTH, BOTH, BOTH], [1.0, 3.0, 2.0], [True] * 3, 1),  # then score
        ([BOTH, BOTH], [1.0, 1.0], [True] * 2, 0),  # then order
        ([NO_NOVEL, MERGED], [9.0, 0.0], [True] * 2, 1),  # a novel cluster first of all
        ([BOTH, MERGED], [9.0, 0.0], [False, True], 1),  # ineligible cells last
        ([BOTH, ONE], [0.0, 9.0], [False, False], 0),  # none eligible: the same order among them
    ],
)
def test_the_cell_is_chosen_by_recovered_classes_beside_a_novel_cluster_then_score(partitions, scores, eligible, chosen):
    assert choose_cell(partitions, scores, eligible, CODES, 2) == chosen


def halves(points, k):
    """Stand in for k-means: equal parts in the order of the points."""
    return np.arange(len(points)) * k // len(points)


def test_an_oversized_novel_cluster_is_split_into_parts_of_a_typical_class():
    targets = np.array([0] * 10 + [1] * 10 + [2] * 31 + [3] * 9 + [MIXED] * 4)
    split = split_novel(np.zeros((64, 2)), targets, [10, 10, 31, 9], 2, halves)
    assert np.bincount(split[20:51]).tolist()[2:] == [11, 10, 10]
    assert (split[51:60] == 5).all() and np.array_equal(split[:20], targets[:20]) and (split[60:] == MIXED).all()


def test_the_larger_of_target_and_kmeans_size_counts():
    targets = np.array([0] * 10 + [1] * 12)
    assert split_novel(np.zeros((22, 1)), targets, [10, 20], 1, halves).max() == 2
    assert split_novel(np.zeros((22, 1)), targets, [10, 12], 1, halves).max() == 1


def test_few_points_are_not_split_into_parts_of_five_or_fewer():
    targets = np.array([0] * 2 + [1] * 10)
    assert split_novel(np.zeros((12, 1)), targets, [2, 10], 1, halves).max() == 1
