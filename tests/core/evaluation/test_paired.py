"""Paired differences: seeds are averaged within a problem, and the interval is over problems."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from core.evaluation.paired import difference

ONE = {("a", 1): 0.5, ("a", 2): 0.7, ("b", 1): 0.4, ("c", 1): 0.9, ("c", 9): 0.0}
OTHER = {("a", 1): 0.4, ("a", 2): 0.4, ("b", 1): 0.5, ("c", 1): 0.6, ("d", 1): 0.1}


def test_a_problem_is_one_observation_whatever_the_number_of_its_seeds():
    found = difference(ONE, OTHER)
    assert found.by_problem == pytest.approx({"a": 0.2, "b": -0.1, "c": 0.3})
    assert (found.n_problems, found.n_pairs, found.better) == (3, 4, 2)
    assert found.mean == pytest.approx(0.4 / 3)


def test_the_interval_is_student_s_of_the_problems():
    found = difference(ONE, OTHER)
    wanted = stats.ttest_1samp([0.2, -0.1, 0.3], 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_with_one_problem_the_seeds_are_the_observations():
    found = difference({("a", s): v for s, v in enumerate((0.5, 0.7, 0.6))}, {("a", s): 0.5 for s in range(3)})
    wanted = stats.ttest_1samp([0.0, 0.2, 0.1], 0.0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, wanted.low, wanted.high))


def test_a_single_pair_has_no_interval_and_no_pair_no_difference():
    found = difference({("a", 1): 0.5}, {("a", 1): 0.25})
    assert found.mean == 0.25 and math.isnan(found.low) and math.isnan(found.high)
    assert difference({("a", 1): 0.5}, {("a", 2): 0.5}) is None


FIGURES = st.dictionaries(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), st.floats(0, 1), min_size=1)


@given(FIGURES, FIGURES)
def test_it_is_antisymmetric_and_never_beyond_the_pairs(one, other):
    found, turned = difference(one, other), difference(other, one)
    pairs = sorted(set(one) & set(other))
    if not pairs:
        assert found is None and turned is None
        return
    assert found.mean == pytest.approx(-turned.mean, abs=1e-12)
    gaps = [one[pair] - other[pair] for pair in pairs]
    assert min(gaps) - 1e-12 <= found.mean <= max(gaps) + 1e-12
    assert np.isnan(found.low) or found.low <= found.mean <= found.high
