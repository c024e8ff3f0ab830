"""The ramp of the pseudo-label loss against the specification's formula."""

import pytest

from core.losses.ramp import MODES, gamma


def test_intervals_ramp_reaches_one_after_two_intervals():
    assert [gamma(e, 10, 2, 100) for e in range(8, 16)] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]


def test_total_ramp_reaches_one_in_the_last_epoch():
    values = [gamma(e, 6, 2, 10, "total") for e in range(6, 10)]
    assert values == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("mode", MODES)
def test_it_is_never_zero_in_a_pseudo_labelled_epoch(mode):
    for interval in (1, 3, 50):
        assert all(0 < gamma(e, 5, interval, 20, mode) <= 1 for e in range(5, 20))


@pytest.mark.parametrize("mode", MODES)
def test_it_is_zero_without_pseudo_labels(mode):
    assert gamma(7, None, 5, 20, mode) == 0.0
    assert gamma(4, 5, 5, 20, mode) == 0.0


def test_a_first_epoch_at_the_very_end_is_full_weight():
    assert gamma(20, 20, 5, 20, "total") == 1.0


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="gamma_ramp=linear"):
        gamma(1, 1, 1, 1, "linear")
