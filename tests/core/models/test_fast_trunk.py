"""Folding BatchNorm into a frozen trunk changes its speed, not its outputs."""

import pytest
import torch

from core.models import backbones
from core.models.fast_trunk import FastTrunk, fold

NAMES = ["mobilenetv2_050", "resnet18", "efficientnet_b0", "regnetx_002"]


def _trunk(name: str, grad_from_block: int = 2) -> torch.nn.Module:
    trunk = backbones.build(name, 64, grad_from_block, pretrained=False).trunk
    generator = torch.Generator().manual_seed(0)
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after a pretraining: not the identity
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return trunk


@pytest.mark.parametrize("name", NAMES)
def test_a_folded_trunk_gives_the_same_outputs(name):
    trunk, images = _trunk(name), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    fast = FastTrunk(trunk, images)
    assert fast.trunk is not trunk
    torch.testing.assert_close(fast(images), trunk(images), rtol=1e-3, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.modules())


def test_folding_leaves_the_original_alone():
    trunk = _trunk("mobilenetv2_050")
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    fold(trunk)
    assert all(torch.equal(before[name], value) for name, value in trunk.state_dict().items())


def test_a_trunk_that_cannot_be_folded_is_kept():
    class Crossed(torch.nn.Module):
        """Registers conv and norm as neighbours but applies the norm first."""

        def __init__(self):
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(3, 3, 3), torch.nn.BatchNorm2d(3)
            self.norm.running_mean.fill_(1.0)

        def forward(self, x):
            return self.conv(self.norm(x).relu())

    trunk = Crossed().eval()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert FastTrunk(trunk, images).trunk is trunk


def test_a_vision_transformer_passes_through():
    trunk = backbones.build("vit_tiny_patch16_224", 32, 10, pretrained=False).trunk
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(FastTrunk(trunk, images)(images), trunk(images))
