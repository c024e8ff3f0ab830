"""Prototypical cross-entropy and class prototypes against their plain formulas."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses.prototypical import class_prototypes, prototypical
from tests.core.losses import plain

SAMPLES = st.lists(st.tuples(st.integers(-1, 2), st.booleans(), st.floats(0.0, 2.0)), min_size=1, max_size=6)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(SAMPLES, st.integers(1, 3), st.booleans())
def test_it_is_the_plain_formula(samples, n_views, one_empty):
    labels, keep, weights = (list(column) for column in zip(*samples, strict=True))
    generator = torch.Generator().manual_seed(len(samples))
    z = torch.randn(n_views * len(samples), 4, generator=generator, dtype=torch.float64)
    prototypes = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    if one_empty:
        prototypes[1] = 0
    got = prototypical(z, torch.tensor(labels), prototypes, 0.2, torch.tensor(keep), torch.tensor(weights, dtype=torch.float64), n_views)
    expected = plain.prototypical(z.tolist(), labels, prototypes.tolist(), 0.2, keep, weights, n_views)
    assert got.item() == pytest.approx(expected, abs=1e-9)


def test_prototypes_are_unit_means_of_unit_features():
    features, labels = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0], [0.0, -1.0]]), torch.tensor([0, 0, 2, -1])
    got = class_prototypes(features, labels, 3)
    torch.testing.assert_close(got, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 0.0], [1.0, 0.0]]))
    weighted = class_prototypes(features, labels, 3, torch.tensor([1.0, 0.0, 1.0, 1.0]))
    torch.testing.assert_close(weighted[0], torch.tensor([1.0, 0.0]))


def test_prototypes_and_features_both_receive_gradients():
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    prototypes = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5), requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: prototypical(a, torch.tensor([0, 1]), b), (z, prototypes))


def test_a_label_without_prototype_is_refused():
    with pytest.raises(ValueError, match="label 3 has no prototype"):
        prototypical(torch.randn(4, 3), torch.tensor([0, 3]), torch.randn(3, 3))
