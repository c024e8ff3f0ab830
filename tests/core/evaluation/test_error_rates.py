"""Error rates against the plain Wilson formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.evaluation.error_rates import by_group, error_rate

Z = 1.959963984540054


@settings(derandomize=True, deadline=None, max_examples=80)
@given(st.integers(1, 400), st.data())
def test_the_interval_is_wilsons(n, data):
    errors = data.draw(st.integers(0, n))
    found, p = error_rate("g", errors, n), errors / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    assert found.rate == p and found.low == pytest.approx(centre - half, abs=1e-9) and found.high == pytest.approx(centre + half, abs=1e-9)
    assert found.low <= p + 1e-12 and p <= found.high + 1e-12


def test_a_higher_level_is_wider_and_an_empty_group_has_no_rate():
    assert error_rate("g", 3, 10, 0.99).high > error_rate("g", 3, 10).high
    assert (error_rate("g", 0, 0).rate, error_rate("g", 0, 0).low) == (None, None)


def test_groups_come_in_order_then_by_size():
    wrong = np.array([1, 0, 0, 1, 1, 0], bool)
    found = by_group(wrong, ["b", "a", "a", "b", "c", "a"], order=("z", "c"))
    assert [(rate.group, rate.n, rate.errors) for rate in found] == [("z", 0, 0), ("c", 1, 1), ("a", 3, 0), ("b", 2, 2)]


@pytest.mark.parametrize("call", [lambda: error_rate("g", 2, 1), lambda: error_rate("g", 1, 2, 1.0), lambda: by_group(np.ones(2), ["a"])])
def test_arguments_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError):
        call()
