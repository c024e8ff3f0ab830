"""The last block for the class token alone: features and gradients are the whole block's, and it steps back where they would not be."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.models.vision_transformer import Block

from core.models import class_token
from core.models.split import split


def network(**options):
    torch.manual_seed(0)
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 0}
    net = timm.models.VisionTransformer(**small | options)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net


@pytest.fixture
def blocks_run(monkeypatch):
    """Return how many whole blocks have run."""
    run = []
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, *given, **options: (run.append(self), forward(self, *given, **options))[1])
    return run


def results(tail, x) -> tuple[torch.Tensor, list[torch.Tensor]]:
    tail.zero_grad()
    features = tail(x)
    (features * torch.linspace(-1, 1, features.shape[1])).pow(2).sum().backward()
    return features.detach(), [parameter.grad.clone() for parameter in tail.parameters()]


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"init_values": 0.1}, {"reg_tokens": 2}, {"pre_norm": True}], ids=str)
@pytest.mark.parametrize("first", [1, 2])
def test_features_and_gradients_are_those_of_the_whole_block(options, first, blocks_run, monkeypatch):
    net = network(**options)
    trunk, tail = split(net, "vit", first)
    x = trunk(torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    blocks_run.clear()
    found, gradients = results(tail, x)
    assert len(blocks_run) == 3 - first - 1
    with monkeypatch.context() as patch:
        patch.setattr(class_token, "fits", lambda *_: False)
        wanted, wanted_gradients = results(tail, x)
    assert len(blocks_run) == 2 * (3 - first) - 1
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    scale = max(gradient.abs().max() for gradient in wanted_gradients)
    for one, other in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(scale))


def test_under_bf16_it_is_as_near_to_full_precision_as_the_whole_block(monkeypatch):
    net = network(embed_dim=96)
    trunk, tail = split(net, "vit", 2)
    x = trunk(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    exact = tail(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = (tail(x) - exact).abs().mean()
        monkeypatch.setattr(class_token, "fits", lambda *_: False)
        assert near <= 1.5 * (tail(x) - exact).abs().mean()


@pytest.mark.parametrize(
    ("options", "training", "whole"),
    [
        ({"qk_norm": True}, True, True),
        ({"global_pool": "avg"}, True, True),
        ({"global_pool": "map"}, True, True),
        ({"class_token": False, "global_pool": "avg"}, True, True),
        ({"drop_path_rate": 0.3}, True, True),
        ({"proj_drop_rate": 0.3}, True, True),
        ({"proj_drop_rate": 0.3}, False, False),
        ({"drop_path_rate": 0.3}, False, False),
        ({}, True, False),
    ],
    ids=str,
)
def test_it_runs_only_where_the_answer_is_the_same(options, training, whole, blocks_run):
    trunk, tail = split(network(**options), "vit", 2)
    tail.train(training)
    x = trunk(torch.randn(2, 3, 32, 32))
    blocks_run.clear()
    tail(x)
    assert bool(blocks_run) == whole


def test_a_changed_projection_of_queries_runs_the_whole_block(blocks_run):
    """Such as one with low-rank additions."""
    trunk, tail = split(network(), "vit", 2)
    block = tail.net.blocks[-1]
    block.attn.qkv = torch.nn.Sequential(copy.deepcopy(block.attn.qkv))
    x = trunk(torch.randn(2, 3, 32, 32))
    blocks_run.clear()
    tail(x)
    assert len(blocks_run) == 1
