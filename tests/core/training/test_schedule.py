"""The cosine falls from start to its end, wherever a training is resumed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.training.schedule import cosine, linear

RATES = st.floats(1e-6, 10)
TOTALS = st.integers(1, 500)


@settings(deadline=None, max_examples=60)
@given(TOTALS, RATES)
def test_it_starts_at_start_and_ends_at_a_thousandth(total, start):
    assert cosine(0, total, start) == pytest.approx(start)
    assert cosine(total, total, start) == pytest.approx(start * 1e-3)
    assert cosine(total + 7, total, start) == cosine(total, total, start)


@settings(deadline=None, max_examples=60)
@given(TOTALS, RATES, st.floats(0, 1))
def test_it_never_rises_and_stays_between_its_ends(total, start, factor):
    rates = [cosine(epoch, total, start, factor) for epoch in range(total + 1)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))
    assert all(start * factor * (1 - 1e-9) <= rate <= start * (1 + 1e-9) for rate in rates)


def test_half_way_is_the_mean_of_both_ends():
    assert cosine(50, 100, 0.1) == pytest.approx((0.1 + 0.0001) / 2)


@given(TOTALS, st.integers(0, 500), st.floats(0, 1), st.floats(0, 1))
def test_a_straight_way_starts_and_ends_where_it_should(total, first, start, end):
    values = [linear(epoch, first, total, start, end) for epoch in range(total)]
    assert all(value == start for value in values[: first + 1])
    assert values[-1] == pytest.approx(end if first < total - 1 else start)
    gaps = [later - earlier for earlier, later in itertools.pairwise(values[min(first, total) :])]
    assert all(gap == pytest.approx(gaps[0], abs=1e-9) for gap in gaps)
