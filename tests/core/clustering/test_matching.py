"""Cluster identities between refreshes, against brute force over every renaming."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clustering.matching import best_pairs, change_rate, contingency, match

quick = settings(derandomize=True, deadline=None, max_examples=120)
two_partitions = st.lists(st.tuples(st.integers(-2, 2), st.integers(-1, 3)), max_size=15)


def split(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def most_kept(previous: np.ndarray, current: np.ndarray) -> int:
    """Return the largest number of points that any one-to-one renaming of `current` leaves with their previous id."""
    ids = np.unique(current)
    names = [*np.unique(previous), *range(1000, 1000 + len(ids))]
    return max(
        sum(int(np.sum((current == old) & (previous == name))) for old, name in zip(ids, chosen, strict=True))
        for chosen in permutations(names, len(ids))
    )


@quick
@given(two_partitions)
def test_match_keeps_as_many_points_as_any_renaming(pairs):
    previous, current = split([(a, b % 3) for a, b in pairs])
    matched = match(previous, current)
    if len(pairs):
        assert int(np.sum(matched == previous)) == most_kept(previous, current)


@quick
@given(two_partitions)
def test_match_renames_one_to_one_and_new_clusters_get_fresh_ids(pairs):
    previous, current = split(pairs)
    matched = match(previous, current)
    renaming = set(zip(current.tolist(), matched.tolist(), strict=True))
    assert len(renaming) == len(set(current.tolist())) == len(set(matched.tolist()))
    for name in set(matched.tolist()):
        kept = np.any((matched == name) & (previous == name))
        assert kept or name > previous.max()


@quick
@given(two_partitions)
def test_match_undoes_a_mere_renaming(pairs):
    previous, _ = split(pairs)
    assert np.array_equal(match(previous, 7 - 3 * previous), previous)
    assert change_rate(previous, match(previous, 7 - 3 * previous)) == 0.0


def test_fresh_ids_ascend_and_can_start_above_vanished_ones():
    previous, current = np.array([4, 4, 4, 4]), np.array([9, 9, 2, 5])
    assert match(previous, current).tolist() == [4, 4, 5, 6]
    assert match(previous, current, first_fresh=20).tolist() == [4, 4, 20, 21]
    assert match(np.array([-3, -3, -3]), np.array([0, 0, 1])).tolist() == [-3, -3, 0]


def test_change_rate_counts_masked_points_only():
    previous, current = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])
    assert change_rate(previous, current) == 0.5
    assert change_rate(previous, current, np.array([True, False, True, False])) == 0.0
    assert change_rate(previous, current, np.zeros(4, dtype=bool)) == 0.0
    assert change_rate([], []) == 0.0


def test_preferred_columns_settle_ties_only():
    tied = np.array([[2, 2], [0, 0]])
    for preferred, column in (([True, False], 0), ([False, True], 1)):
        rows, columns = best_pairs(tied, np.array(preferred))
        assert columns[rows.tolist().index(0)] == column
    rows, columns = best_pairs(np.array([[3, 2], [0, 0]]), np.array([False, True]))
    assert columns[rows.tolist().index(0)] == 0


def test_contingency_counts_pairs_of_any_integers():
    table = contingency([5, -1, 5, 5], [2, 2, 8, 2])
    assert table.rows.tolist() == [-1, 5]
    assert table.columns.tolist() == [2, 8]
    assert table.counts.tolist() == [[1, 0], [2, 1]]


def test_partitions_of_different_points_are_refused():
    with pytest.raises(ValueError, match="same points"):
        match([0, 1], [0])
    with pytest.raises(ValueError, match="same points"):
        change_rate([0, 1], [0])
