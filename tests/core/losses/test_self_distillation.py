"""Self-distillation of class assignments against its plain double loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.losses.self_distillation import self_distillation
from tests.core.losses.test_soft_prototypical import softmax


def plain(cosines, n_views, t, teacher, entropy_weight):
    """The formula of the docstring, over every pair of different views, in Python floats."""
    batch = len(cosines) // n_views
    p = [softmax([value / t for value in row]) for row in cosines]
    q = [softmax([value / teacher for value in row]) for row in cosines]
    pairs = [(u * batch + i, v * batch + i) for u in range(n_views) for v in range(n_views) if u != v for i in range(batch)]
    crossed = -sum(share * math.log(other) for u, v in pairs for share, other in zip(q[u], p[v], strict=True)) / len(pairs)
    mean = [sum(column) / len(p) for column in zip(*p, strict=True)]
    return crossed + entropy_weight * sum(share * math.log(share) for share in mean if share > 0)


def drawn(seed, n_views, batch=4, k=3):
    return 2 * torch.rand(n_views * batch, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


@given(st.integers(0, 1000), st.integers(2, 3), st.integers(1, 5), st.integers(1, 4), st.floats(0.02, 0.3), st.floats(0, 5))
def test_it_is_the_plain_formula(seed, n_views, batch, k, teacher, entropy_weight):
    cosines = drawn(seed, n_views, batch, k)
    wanted = plain(cosines.tolist(), n_views, 0.1, teacher, entropy_weight)
    assert self_distillation(cosines, n_views, 0.1, teacher, entropy_weight).item() == pytest.approx(wanted, abs=1e-9)


def test_views_that_agree_cost_less_and_one_class_for_all_costs_most():
    apart = torch.tensor([[0.9, -0.9], [-0.9, 0.9]])
    agreed, crossed = torch.cat([apart, apart]), torch.cat([apart, apart.flip(0)])
    alone = torch.tensor([[0.9, -0.9]] * 4)
    values = [self_distillation(one, entropy_weight=2.0).item() for one in (agreed, alone, crossed)]
    assert values == sorted(values) and values[0] == pytest.approx(-2 * math.log(2), abs=1e-4) and values[1] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
def test_without_samples_or_classes_it_is_zero_and_differentiable(shape):
    cosines = torch.zeros(shape, requires_grad=True)
    loss = self_distillation(cosines)
    loss.backward()
    assert loss.item() == 0.0
