"""The quick run's own network."""

import pytest
import torch
from torch import nn

from core.models import small


def test_it_is_small_and_takes_small_images():
    net = small.create(1)
    assert 100_000 <= sum(p.numel() for p in net.parameters()) <= 300_000
    for side in (8, 16, 32):
        assert net(torch.zeros(2, 3, side, side)).shape == (2, net.num_features)


def test_the_seed_decides_the_weights_and_the_global_generator_stays():
    before = torch.get_rng_state()
    one, same, other = small.create(1), small.create(1), small.create(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("train", [True, False])
def test_an_image_does_not_depend_on_its_batch(train):
    net = small.create(1).train(train)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(x)[:1], net(x[:1]))
