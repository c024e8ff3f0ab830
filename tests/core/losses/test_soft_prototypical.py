"""Self-distillation towards prototypes against its plain double loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses.soft_prototypical import soft_prototypical
from tests.core.losses.plain import dot, unit


def softmax(values):
    largest = max(values)
    shares = [math.exp(value - largest) for value in values]
    return [share / sum(shares) for share in shares]


def plain(rows, prototypes, n_views, t, teacher):
    """The formula of the docstring, over every pair of different views, in Python floats."""
    filled = [row for row in prototypes if any(row)]
    batch = len(rows) // n_views
    cosines = [[dot(unit(row), unit(prototype)) for prototype in filled] for row in rows]
    p = [softmax([value / t for value in row]) for row in cosines]
    q = [softmax([value / teacher for value in row]) for row in cosines]
    pairs = [(u * batch + i, v * batch + i) for u in range(n_views) for v in range(n_views) if u != v for i in range(batch)]
    crossed = -sum(share * math.log(other) for u, v in pairs for share, other in zip(q[u], p[v], strict=True)) / len(pairs)
    mean = [sum(column) / len(p) for column in zip(*p, strict=True)]
    return crossed + sum(share * math.log(share) for share in mean if share > 0)


def tensors(seed, n_views, batch=4, k=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_views * batch, 5, generator=generator, dtype=torch.float64), torch.randn(
        k, 5, generator=generator, dtype=torch.float64
    )


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(2, 3), st.integers(1, 5), st.integers(1, 4), st.floats(0.05, 0.5), st.floats(0.02, 0.3))
def test_it_is_the_plain_formula(seed, n_views, batch, k, temperature, teacher):
    z, c = tensors(seed, n_views, batch, k)
    wanted = plain(z.tolist(), c.tolist(), n_views, temperature, teacher)
    assert soft_prototypical(z, c, n_views, temperature, teacher).item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("n_views", [2, 3])
def test_the_gradient_is_that_of_the_formula_with_the_teacher_held_fixed(n_views):
    z, c = tensors(1, n_views, batch=2)
    z.requires_grad_()
    teacher = torch.softmax((torch.nn.functional.normalize(z, dim=1) @ torch.nn.functional.normalize(c, dim=1).T) / 0.2, 1).detach()

    def fixed(x):
        log_p = torch.log_softmax((torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(c, dim=1).T) / 0.5, 1)
        log_p, q = log_p.view(n_views, 2, -1), teacher.view(n_views, 2, -1)
        pairs = [(q[u] * log_p[v]).sum() for u in range(n_views) for v in range(n_views) if u != v]
        mean = log_p.exp().mean((0, 1))
        return -sum(pairs) / (len(pairs) * 2) + (mean * mean.log()).sum()

    assert torch.autograd.gradcheck(fixed, z)
    (wanted,) = torch.autograd.grad(fixed(z), z)
    (found,) = torch.autograd.grad(soft_prototypical(z, c, n_views, 0.5, 0.2), z)
    torch.testing.assert_close(found, wanted)


def test_an_empty_prototype_is_never_assigned():
    z, c = tensors(2, 2)
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.float64), c[:2], torch.zeros(2, 5, dtype=torch.float64), c[2:]])
    assert torch.equal(soft_prototypical(z, padded, 2), soft_prototypical(z, c, 2))


@pytest.mark.parametrize("prototypes", [torch.zeros(3, 5), torch.zeros(0, 5)])
def test_without_a_filled_prototype_it_is_zero_and_differentiable(prototypes):
    z = tensors(2, 2)[0].float().requires_grad_()
    loss = soft_prototypical(z, prototypes, 2)
    loss.backward()
    assert loss.item() == 0.0 and torch.equal(z.grad, torch.zeros_like(z))


def test_prototypes_get_no_gradient_when_they_are_constants_and_scale_freely():
    z, c = tensors(3, 2)
    torch.testing.assert_close(soft_prototypical(z, 7 * c, 2), soft_prototypical(z, c, 2))


def test_half_precision_is_computed_in_float32():
    z, c = tensors(4, 2)
    assert soft_prototypical(z.bfloat16(), c.bfloat16(), 2).dtype == torch.float32


@pytest.mark.parametrize("options, said", [({"temperature": 0.0}, "temperature"), ({"teacher_temperature": -1.0}, "teacher_temperature")])
def test_temperatures_are_positive(options, said):
    with pytest.raises(ValueError, match=said):
        soft_prototypical(*tensors(5, 2), 2, **options)


def test_rows_are_whole_views():
    z, c = tensors(6, 2)
    with pytest.raises(ValueError, match="views of one batch"):
        soft_prototypical(z[:7], c, 2)
