"""The projection head."""

import inspect

import pytest
import torch

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
