"""The projection head."""

import inspect

import pytest
import torch

from core.models import heads
from core.models.heads import ProjectionHead


def features(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 20, generator=torch.Generator().manual_seed(0))


def test_the_default_shape_is_the_papers():
    defaults = {name: p.default for name, p in inspect.signature(ProjectionHead).parameters.items() if name != "in_dim"}
    assert defaults == {"hidden_dim": 2048, "bottleneck_dim": 256, "out_dim": 65536, "layers": 3, "seed": 1}


@pytest.mark.parametrize("layers, linears", [(1, 1), (2, 2), (3, 3)])
def test_it_has_as_many_layers_as_asked(layers, linears):
    head = ProjectionHead(20, 32, 16, 50, layers)
    assert sum(isinstance(m, torch.nn.Linear) for m in head.mlp) == linears
    assert head(features()).shape == (6, 50)


def test_outputs_are_cosines_with_the_bottleneck():
    head = ProjectionHead(20, 32, 16, 50)
    bottleneck = head.mlp(features())
    expected = torch.nn.functional.cosine_similarity(bottleneck[:, None], head.prototypes[None], dim=-1)
    torch.testing.assert_close(head(features()), expected)
    assert head(features()).abs().max() <= 1 + 1e-6


def test_the_length_of_the_last_layers_rows_does_not_matter():
    head = ProjectionHead(20, 32, 16, 50)
    before = head(features())
    with torch.no_grad():
        head.prototypes.mul_(3.0)
    torch.testing.assert_close(head(features()), before)


def test_the_seed_decides_the_weights_and_the_global_generator_stays():
    before = torch.get_rng_state()
    one, same, other = (ProjectionHead(20, 32, 16, 50, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one(features()), same(features())) and not torch.equal(one(features()), other(features()))
    assert 0.015 < one.prototypes.std().item() < 0.025


def test_everything_in_it_trains():
    head = ProjectionHead(20, 32, 16, 50)
    head(features()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_no_layers_are_refused():
    with pytest.raises(ValueError, match="at least 1 layer"):
        ProjectionHead(20, layers=0)


def test_gradients_are_those_of_rows_of_unit_length():
    head = ProjectionHead(20, 32, 16, 50)
    x, weights = features(), torch.linspace(-1, 1, 300).view(6, 50)
    (head(x) * weights).sum().backward()
    own = {name: parameter.grad for name, parameter in head.named_parameters()}
    head.zero_grad()
    normalise = torch.nn.functional.normalize
    (torch.nn.functional.linear(normalise(head.mlp(x)), normalise(head.prototypes)) * weights).sum().backward()
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(own[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_gradients_of_the_last_layer_are_right_to_double_precision():
    z, p = (torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(n), requires_grad=True) for n in (4, 7))
    assert torch.autograd.gradcheck(heads._Cosines.apply, (z, p))


def test_under_bf16_outputs_and_gradients_are_those_of_single_precision_up_to_rounding():
    head = ProjectionHead(20, 32, 16, 50)
    found = []
    for enabled in (False, True):
        head.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = head(features())
        out.float().square().sum().backward()
        found.append((out.float().detach(), head.prototypes.grad))
    for single, half in zip(*found, strict=True):
        assert (single - half).norm() < 0.02 * single.norm() and half.dtype == torch.float32


def test_no_array_as_large_as_the_last_layer_is_made_in_the_forward_pass():
    head, made = ProjectionHead(20, 32, 16, 5000), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: made.append(x) or x, lambda x: x):
        head(features())
    assert {x.data_ptr() for x in made if x.numel() >= 5000 * 16} == {head.prototypes.data_ptr()}
