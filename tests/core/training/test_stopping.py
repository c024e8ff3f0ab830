"""When a training has nothing more to gain."""

import pytest

from core.training.stopping import stale_epochs


@pytest.mark.parametrize(
    "values, delta, stale",
    [
        ([1.0], 0, 0),
        ([1.0, 2.0, 3.0], 0, 0),
        ([3.0, 2.0, 1.0], 0, 2),
        ([1.0, 0.9, 1.2, 1.1], 0, 1),
        ([1.0, 1.0005, 1.001], 0.001, 2),
        ([], 0, 0),
    ],
)
def test_the_count_of_stale_epochs_starts_anew_with_every_improvement(values, delta, stale):
    assert stale_epochs(values, delta) == stale
