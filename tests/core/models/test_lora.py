"""LoRA: nothing else trains, nothing changes at the start, and the merged tower computes the same."""

import pytest
import torch

from core.errors import UserError
from core.models import lora
from tests.core.models import tiny_clip

IDS = tiny_clip.towers().tokenizer(tiny_clip.SENTENCES).ids


def encode(towers) -> tuple[torch.Tensor, torch.Tensor]:
    return towers.encode_image(tiny_clip.images()), towers.encode_text(IDS)


def trained(towers) -> None:
    """A few steps of anything, so that the low-rank changes are no longer zero."""
    optimizer = torch.optim.SGD([p for p in towers.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(x.square().mean() for x in encode(towers)).backward()
        optimizer.step()


def test_only_the_low_rank_weights_train():
    towers = tiny_clip.towers()
    count = tiny_clip.add_lora(towers, rank=4)
    before = {name: p.clone() for name, p in towers.named_parameters()}
    trained(towers)
    moved = {name for name, p in towers.named_parameters() if not torch.equal(p, before[name])}
    assert count == 2 * (2 * 4) and len(moved) == 2 * count
    assert all(name.endswith((".up", ".down")) for name in moved)


@pytest.mark.parametrize("mode", [True, False])
def test_it_starts_as_the_plain_tower(mode):
    plain, changed = tiny_clip.towers().train(mode), tiny_clip.towers().train(mode)
    tiny_clip.add_lora(changed, rank=4)
    for a, b in zip(encode(plain), encode(changed), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("image", [tiny_clip.IMAGE, "vit_tiny_patch16_224"])
def test_the_merged_tower_computes_the_same_and_has_plain_names(image):
    towers = tiny_clip.towers(image)
    names = list(towers.state_dict())
    tiny_clip.add_lora(towers, rank=2)
    start = encode(towers.eval())
    trained(towers)
    expected = encode(towers)
    assert not torch.allclose(start[0], expected[0])
    lora.merge(towers)
    for a, b in zip(encode(towers), expected, strict=True):
        torch.testing.assert_close(a, b)
    assert sorted(towers.state_dict()) == sorted(names)


def test_one_tower_alone_can_have_it():
    towers = tiny_clip.towers()
    assert tiny_clip.add_lora(towers, rank=4, sides=("text",)) == 8
    assert all(p.requires_grad for p in towers.visual.parameters())


def test_alpha_scales_the_change():
    outputs = []
    for alpha in (0.0, 8.0, 16.0):
        towers = tiny_clip.towers().eval()
        tiny_clip.add_lora(towers, rank=4, alpha=alpha)
        with torch.no_grad():
            for module in towers.modules():
                if isinstance(module, lora.LowRank):
                    module.up.fill_(1e-3)
        outputs.append(towers.encode_image(tiny_clip.images()))
    near, far = ((outputs[k] - outputs[0]).norm().item() for k in (1, 2))
    assert far / near == pytest.approx(2.0, rel=0.1)


def test_the_seed_decides_and_the_global_generator_stays():
    def drawn(seed):
        towers = tiny_clip.towers()
        tiny_clip.add_lora(towers, rank=4, seed=seed)
        return next(p for name, p in towers.named_parameters() if name.endswith("down"))

    before = torch.get_rng_state()
    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_cnn_and_a_bad_rank_are_refused():
    with pytest.raises(UserError, match="lora_rank=4: resnet10t has no attention or MLP weights"):
        tiny_clip.add_lora(tiny_clip.towers("resnet10t"), rank=4)
    with pytest.raises(UserError, match="lora_rank=0 must be 1 or more"):
        tiny_clip.add_lora(tiny_clip.towers(), rank=0)
