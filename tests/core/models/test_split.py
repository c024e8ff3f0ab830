"""Trunk and tail together are the network, whatever its family; the trunk is frozen for good."""

import copy

import pytest
import torch
from torch import nn

from core.errors import UserError
from core.models.backbones import build
from core.models.split import family_of, last_stage_modules, split
from core.models.sync_batch_norm import convert

timm = pytest.importorskip("timm")

# name, constructor options that keep the network small, side of the image, stages
NETWORKS = [
    ("vit_tiny_patch16_224", {"depth": 3}, 224, 3),
    ("vit_base_patch16_224.dino", {"depth": 2, "embed_dim": 48, "num_heads": 3}, 224, 2),
    ("vit_tiny_patch16_224", {"depth": 3, "dynamic_img_size": True}, 96, 3),
    ("vit_tiny_patch16_224", {"depth": 2, "global_pool": "avg"}, 224, 2),
    ("vit_small_patch14_dinov2", {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 56}, 56, 2),
    ("deit_tiny_patch16_224", {"depth": 2}, 224, 2),
    ("deit_tiny_distilled_patch16_224", {"depth": 2}, 224, 2),
    ("mobilenetv2_100", {}, 64, 7),
    ("mobilenetv3_small_050", {}, 64, 6),
    ("efficientnet_b0", {}, 64, 7),
    ("resnet18", {}, 64, 4),
    ("convnext_atto", {}, 64, 4),
    ("regnetx_002", {}, 64, 4),
    ("swin_tiny_patch4_window7_224", {"img_size": 56, "embed_dim": 24, "depths": (2, 2, 2, 2)}, 56, 4),
]
every_network = pytest.mark.parametrize("name, options, size, stages", NETWORKS, ids=[f"{n[0]}-{n[2]}-{i}" for i, n in enumerate(NETWORKS)])


def network(name: str, options: dict) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(name, pretrained=False, num_classes=0, **options).eval()


def images(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@every_network
def test_tail_of_trunk_is_exactly_the_network(monkeypatch, name, options, size, stages):
    monkeypatch.setattr("core.models.class_token.fits", lambda *_: False)  # it gives the same up to rounding: test_class_token.py
    net, x = network(name, options), images(size)
    with torch.no_grad():
        expected = net(x)
    for grad_from_block in (0, 1, stages - 1, stages):
        trunk, tail = split(net, name, grad_from_block)
        with torch.no_grad():
            assert torch.equal(tail.eval()(trunk(x)), expected), grad_from_block


@every_network
def test_every_parameter_is_in_exactly_one_part(name, options, size, stages):
    net = network(name, options)
    trunk, tail = split(net, name, stages - 1)
    parts = [id(p) for part in (trunk, tail) for p in part.parameters()]
    assert sorted(parts) == sorted(id(p) for p in net.parameters())
    assert not any(p.requires_grad for p in trunk.parameters()) and all(p.requires_grad for p in tail.parameters())


@every_network
def test_one_stage_too_many_names_the_valid_range(name, options, size, stages):
    with pytest.raises(UserError, match=rf"grad_from_block={stages + 1} .* 0 \(whole model\) to {stages}"):
        split(network(name, options), name, stages + 1)


def test_mobilenet_trains_its_last_two_stages_and_what_follows():
    _, tail = split(network("mobilenetv2_100", {}), "mobilenetv2_100", 5)
    assert {".".join(key.split(".")[1:3]) for key in tail.state_dict() if "blocks" in key} == {"blocks.5", "blocks.6"}
    assert {key.split(".")[1] for key in tail.state_dict()} == {"blocks", "conv_head", "bn2"}


def test_another_family_is_refused_but_trains_as_a_whole():
    net = network("densenet121", {})
    assert family_of(net) is None
    with pytest.raises(UserError, match=r"supported families are ViT.*grad_from_block=0 trains the whole"):
        split(net, "densenet121", 2)
    trunk, tail = split(net, "densenet121", 0)
    x = images(32)
    assert torch.equal(trunk(x), x) and not trunk.state_dict() and tail.eval()(x).shape == (2, 1024)


def test_a_negative_block_is_refused():
    with pytest.raises(UserError, match="grad_from_block=-1"):
        build("small_cnn", 8, -1)


def test_the_trunk_never_trains():
    trunk, tail = split(network("resnet18", {}), "resnet18", 2)
    before = copy.deepcopy(trunk.state_dict())
    trunk.train()
    x = images(32).requires_grad_()
    out = trunk(x)
    assert not trunk.training and not any(module.training for module in trunk.modules())
    assert not out.requires_grad and tail.training
    tail(out).sum().backward()
    assert all(torch.equal(before[key], value) for key, value in trunk.state_dict().items())
    assert all(p.grad is None for p in trunk.parameters()) and all(p.grad is not None for p in tail.parameters())


@pytest.mark.parametrize("synchronised", [False, True])
@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norm_keeps_its_statistics_and_trains_its_scale(frozen, synchronised):
    trunk, tail = split(network("mobilenetv2_100", {}), "mobilenetv2_100", 6, freeze_batch_norm=frozen)
    tail = convert(tail).train() if synchronised else tail.train()
    mean = tail.net.bn2.running_mean.clone()
    tail(trunk(images(64))).square().sum().backward()
    assert torch.equal(tail.net.bn2.running_mean, mean) == frozen
    assert tail.net.bn2.weight.grad.abs().sum() > 0


def test_a_copy_of_the_parts_works_on_its_own():
    trunk, tail = split(network("vit_tiny_patch16_224", {"depth": 2}), "vit", 1)
    x = images(224)
    other_trunk, other_tail = copy.deepcopy(trunk), copy.deepcopy(tail)
    with torch.no_grad():
        assert torch.equal(other_tail.eval()(other_trunk(x)), tail.eval()(trunk(x)))


def last_stage_names(net: nn.Module) -> set[str]:
    names = {id(p): name for name, p in net.named_parameters()}
    return {names[id(p)] for module in last_stage_modules(net) for p in module.parameters()}


@every_network
def test_the_last_stage_is_what_a_tail_of_one_stage_trains(name, options, size, stages):
    net = network(name, options)
    found = last_stage_names(net)
    whole_tail, last_tail = split(net, name, 0)[1], split(net, name, stages - 1)[1]
    expected = {name.removeprefix("net.") for name, _ in last_tail.named_parameters()}
    assert found == expected and 0 < len(found) < len(list(net.parameters()))
    # Wrapped as `build` gives it, whole or already split, it is the same stage.
    assert {f"net.{name}" for name in found} == last_stage_names(whole_tail) == last_stage_names(last_tail)


def test_the_last_stage_of_small_cnn_is_its_third():
    assert {name.split(".")[1] for name in last_stage_names(build("small_cnn", 8, 0).tail.net)} == {"2"}


def test_a_network_of_no_family_has_its_last_child_with_a_kernel_for_a_last_stage():
    assert {name.split(".")[1] for name in last_stage_names(network("densenet121", {}))} == {"denseblock4", "norm5"}
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Flatten())
    assert last_stage_modules(plain) == list(plain)[1:]
    assert last_stage_modules(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4))) == []
