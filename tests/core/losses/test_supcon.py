"""SupCon against the plain double loop of its paper's equation 2."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses.supcon import supcon
from tests.core.losses import plain

SAMPLES = st.lists(st.tuples(st.integers(-1, 2), st.booleans(), st.floats(0.0, 2.0)), min_size=1, max_size=6)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(SAMPLES, st.integers(1, 3), st.integers(0, 1000))
def test_it_is_the_plain_formula(samples, n_views, seed):
    labels, keep, weights = (list(column) for column in zip(*samples, strict=True))
    z = torch.randn(n_views * len(samples), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    got = supcon(z, torch.tensor(labels), n_views, 0.2, torch.tensor(keep), torch.tensor(weights, dtype=torch.float64))
    assert got.item() == pytest.approx(plain.supcon(z.tolist(), labels, n_views, 0.2, keep, weights), abs=1e-9)


def test_the_default_is_the_plain_formula_at_temperature_007():
    z, labels = torch.randn(12, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64), [0, 1, 0, 2, 1, 0]
    assert supcon(z, torch.tensor(labels), 2).item() == pytest.approx(plain.supcon(z.tolist(), labels, 2, 0.07))


def test_samples_labelled_none_are_not_positives_of_each_other():
    z = torch.randn(8, 4, generator=torch.Generator().manual_seed(2))
    assert torch.equal(supcon(z, torch.tensor([0, 0, -1, -1]), 2), supcon(z[[0, 1, 4, 5]], torch.tensor([0, 0]), 2))


def test_one_view_alone_in_its_class_does_not_count():
    assert supcon(torch.randn(3, 4), torch.tensor([0, 1, 2]), n_views=1).item() == 0.0


def test_weights_scale_freely_and_a_zero_weight_stays_a_negative():
    z, labels = torch.randn(8, 4, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 0, 1, 1])
    weights = torch.tensor([1.0, 1.0, 0.0, 0.0])
    value = supcon(z, labels, 2, weights=weights)
    torch.testing.assert_close(value, supcon(z, labels, 2, weights=5 * weights))
    assert not torch.isclose(value, supcon(z, labels, 2, keep=weights > 0))
    assert supcon(z, labels, 2, weights=torch.zeros(4)).item() == 0.0


def test_labels_must_match_the_batch():
    with pytest.raises(ValueError, match="3 labels for 4 samples"):
        supcon(torch.randn(8, 4), torch.tensor([0, 1, 2]), 2)
