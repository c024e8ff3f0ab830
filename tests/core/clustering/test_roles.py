"""What clusters stand for: perfect and noisy partitions of any split, the order of novel clusters, the choice of a cell, splitting."""

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
        ([(0, 8), (1, 2)], True),
        ([(0, 79), (1, 21)], False),  # purity below 80 %
    ],
)
def test_a_known_cluster_has_five_members_and_is_four_fifths_pure(cluster, known):
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
def test_a_novel_cluster_has_five_members_and_at_most_a_tenth_of_the_expected_labels(cluster, novel):
    found = of_clusters(*partition(cluster, [(1, 50)]), 2)
    assert (found.role[0] >= 2) == novel and found.n_novel == int(novel)


@pytest.mark.parametrize("size, novel", [(20, True), (19, False)])
def test_a_novel_cluster_has_two_percent_of_a_known_classs_size(size, novel):
    assert (of_clusters(*partition([(-1, size)], [(0, 1000 - size)]), 1).role[0] == 1) == novel


SETTINGS = settings(derandomize=True, deadline=None, max_examples=80)
SHARE = st.floats(np.log(0.02), 0.0).map(np.exp)


@st.composite
def worlds(draw, largest, imbalance):
    """(true classes, codes, number of known classes, labelled share, sizes) of a split; known classes come first."""
    n_all = draw(st.integers(2, 200))
    n_known = draw(st.integers(1, n_all - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = np.maximum(10, draw(largest) * draw(imbalance) ** -rng.random(n_all)).astype(int)
    truth, share = np.repeat(np.arange(n_all), sizes), draw(SHARE)
    members = [rng.permutation(np.flatnonzero(truth == c)) for c in range(n_known)]
    equal = max(1, int(share * sizes[:n_known].min()))
    fixed = draw(st.booleans())  # the same number for each class, or the same share
    codes = np.full(len(truth), -1)
    for c, indices in enumerate(members):
        codes[indices[: equal if fixed else max(1, round(share * sizes[c]))]] = c
    return truth, codes, n_known, float((codes >= 0).sum() / sizes[:n_known].sum()), sizes


def decidable(share, sizes):
    """Mark clusters that would be expected to hold so many labels, were they known, that none of them is no chance."""
    return (1 - share) ** sizes < 0.01


@SETTINGS
@given(worlds(st.integers(10, 1000), st.floats(1, 50)))
def test_on_a_perfect_partition_known_clusters_are_known_and_novel_ones_novel(world):
    truth, codes, n_known, share, sizes = world
    role = of_clusters(truth, codes, n_known).role
    assert role[:n_known].tolist() == list(range(n_known))
    typical = np.median(sizes[:n_known])
    novel, sure = role[n_known:], decidable(share, sizes[n_known:]) & (sizes[n_known:] >= 0.02 * typical)
    assert (novel[sure] >= n_known).all() and ((novel >= n_known) | (novel == MIXED)).all()


@SETTINGS
@given(worlds(st.integers(100, 1000), st.floats(1, 5)), st.integers(0, 99))
def test_a_few_misplaced_points_change_few_roles(world, seed):
    truth, codes, n_known, share, sizes = world
    rng = np.random.default_rng(seed)
    moved = rng.random(len(truth)) < 0.02
    clusters = np.where(moved, rng.permutation(truth), truth)
    role = of_clusters(clusters, codes, n_known).role
    labels = np.bincount(codes[codes >= 0], minlength=n_known)
    right = np.concatenate([role[:n_known] == np.arange(n_known), role[n_known:] >= n_known])
    sure = np.concatenate([labels >= 10, share * sizes[n_known:] >= 15])
    assert right[sure].mean() >= 0.95 if sure.sum() >= 20 else (~right[sure]).sum() <= 1


@SETTINGS
@given(worlds(st.integers(60, 1000), st.just(1.0)), st.sampled_from(["pairs", "halves", "known pair", "known halves"]), st.booleans())
def test_the_perfect_cell_is_preferred_to_one_that_merges_or_splits(world, kind, first):
    truth, codes, n_known, share, sizes = world
    if not decidable(share, sizes).all() or (kind == "pairs" and len(sizes) - n_known < 2) or (kind == "known pair" and n_known < 2):
        return
    rng, novel = np.random.default_rng(0), truth >= n_known
    other = {
        "pairs": np.where(novel, n_known + (truth - n_known) // 2, truth),
        "halves": np.where(novel & (rng.random(len(truth)) < 0.5), len(sizes) + truth - n_known, truth),
        "known pair": np.where(truth == 1, 0, truth),
        "known halves": np.where(~novel & (rng.random(len(truth)) < 0.5), len(sizes) + truth, truth),
    }[kind]
    other = np.unique(other, return_inverse=True)[1]
    cells, better = ([truth, other], 0) if first else ([other, truth], 1)
    assert choose_cell(cells, [0.0, 0.0], [True, True], codes, n_known) == better


def test_eighty_known_and_twenty_novel_classes_are_all_found_and_preferred_to_novel_pairs_with_a_better_score():
    truth = np.repeat(np.arange(100), 100)
    codes = np.where((truth < 80) & (np.arange(len(truth)) % 10 < 8), truth, -1)
    pairs = np.where(truth >= 80, 80 + (truth - 80) // 2, truth)
    found = of_clusters(truth, codes, 80)
    assert (found.n_novel, found.n_recovered, found.placed) == (20, 80, 1.0)
    assert choose_cell([pairs, truth], [1.0, 0.0], [True, True], codes, 80) == 1


def test_four_classes_with_fifty_labels_of_five_hundred_are_recovered_beside_one_novel():
    truth = np.repeat(np.arange(5), 500)
    codes = np.where((truth < 4) & (np.arange(len(truth)) % 10 == 0), truth, -1)
    assert of_clusters(truth, codes, 4).role.tolist() == [0, 1, 2, 3, 4]


def test_the_splits_own_share_shows_classes_that_all_took_in_strangers():
    truth = np.repeat(np.arange(4), 100)
    codes = np.where((truth < 2) & (np.arange(len(truth)) % 10 < 8), truth, -1)
    merged = truth % 2
    assert of_clusters(merged, codes, 2).placed == 1.0 and of_clusters(merged, codes, 2, 0.8).placed == 0.0


def test_few_points_without_a_label_are_neither_where_labels_are_rare():
    clusters, codes = partition([(0, 2), (-1, 98)], [(-1, 100)], [(-1, 400)])
    assert of_clusters(clusters, codes, 1).role.tolist() == [0, MIXED, 1]


def test_without_any_label_every_cluster_is_novel():
    assert of_clusters(np.repeat([0, 1], 10), np.full(20, -1), 0).role.tolist() == [0, 1]


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


def test_a_large_novel_class_among_classes_as_large_is_not_split():
    targets = np.array([0] * 10 + [1] * 60 + [2] * 12 + [3] * 60)
    assert split_novel(np.zeros((142, 1)), targets, [10, 60, 12, 60], 3, halves).max() == 3


def test_few_points_are_not_split_into_parts_of_five_or_fewer():
    targets = np.array([0] * 2 + [1] * 10)
    assert split_novel(np.zeros((12, 1)), targets, [2, 10], 1, halves).max() == 1


@pytest.mark.filterwarnings("error")
def test_without_a_known_class_no_novel_cluster_is_too_large():
    targets = np.array([0] * 90 + [1] * 10)
    assert np.array_equal(split_novel(np.zeros((100, 1)), targets, np.array([90, 10]), 0, halves), targets)
