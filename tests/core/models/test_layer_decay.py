"""Parameter groups: every trained parameter once, a rate a tower, less the deeper the layer."""

import pytest

from core.models.layer_decay import layer_of, parameter_groups
from tests.core.models import tiny_clip


@pytest.mark.parametrize("image", [tiny_clip.IMAGE, "resnet10t", "vit_tiny_patch16_224", "small_cnn"])
def test_every_parameter_is_in_one_group(image):
    towers = tiny_clip.towers(image)
    grouped = [id(p) for group in parameter_groups(towers, 1e-3, 1e-4, 0.1, 0.7) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in towers.parameters())


def test_rates_fall_from_the_top_of_each_tower():
    towers = tiny_clip.towers()
    rates = {id(p): group["lr"] for group in parameter_groups(towers, 1.0, 10.0, 0.1, 0.5) for p in group["params"]}
    image, text = towers.visual.body, towers.text.body
    assert rates[id(image.proj)] == 1.0 and rates[id(image.ln_post.weight)] == 1.0
    assert rates[id(image.transformer.resblocks[1].mlp.c_fc.weight)] == 0.5
    assert rates[id(image.transformer.resblocks[0].attn.in_proj_weight)] == 0.25
    assert rates[id(image.conv1.weight)] == 0.125 == rates[id(image.positional_embedding)]
    assert rates[id(text.text_projection)] == 10.0 and rates[id(text.token_embedding.weight)] == 1.25


@pytest.mark.parametrize("image, first, last", [("resnet10t", "conv1", "layer4"), ("vit_tiny_patch16_224", "patch_embed", "blocks.11")])
def test_timm_towers_have_their_projection_on_top(image, first, last):
    tower = tiny_clip.towers(image).visual
    layers, top = layer_of(tower)
    of = {key: {layer for name, layer in layers.items() if name.startswith(f"body.{key}")} for key in (first, last)}
    assert of[first] == {0} and layers["projection.weight"] == top > max(of[last])


def test_without_decay_a_tower_has_one_rate():
    groups = parameter_groups(tiny_clip.towers(), 1.0, 10.0, 0.1)
    assert {(group["name"].split("-")[0], group["lr"]) for group in groups} == {("image", 1.0), ("text", 10.0), ("scale", 10.0)}


def test_only_matrices_decay():
    for group in parameter_groups(tiny_clip.towers(), 1.0, 1.0, 0.1, 0.5):
        if group["weight_decay"]:
            assert all(p.ndim >= 2 for p in group["params"])
    towers = tiny_clip.towers()
    decay = {id(p): g["weight_decay"] for g in parameter_groups(towers, 1.0, 1.0, 0.1) for p in g["params"]}
    assert decay[id(towers.visual.body.positional_embedding)] == 0.0 == decay[id(towers.logit_scale)]
    assert decay[id(towers.visual.body.proj)] == 0.1


def test_the_scale_has_its_own_rate_and_a_fixed_one_none():
    from core.models.clip import Temperature

    scale = [g for g in parameter_groups(tiny_clip.towers(), 1.0, 1.0, 0.1, scale_lr=0.3) if g["name"] == "scale"]
    assert scale[0]["lr"] == 0.3
    fixed = tiny_clip.towers(temperature=Temperature(0.07, learnable=False))
    assert not [g for g in parameter_groups(fixed, 1.0, 1.0, 0.1) if g["name"] == "scale"]


def test_one_optimiser_serves_before_and_after_unlocking():
    towers = tiny_clip.towers()
    before = [g["name"] for g in parameter_groups(towers, 1.0, 1.0, 0.1, 0.5)]
    towers.lock_text()
    assert [g["name"] for g in parameter_groups(towers, 1.0, 1.0, 0.1, 0.5)] == before


def test_lora_groups_hold_the_low_rank_weights_alone():
    towers = tiny_clip.towers()
    towers.add_lora(rank=2)
    towers.lock_image()
    groups = parameter_groups(towers, 1.0, 1.0, 0.1, 0.5)
    assert sum(len(g["params"]) for g in groups) == 2 * 16 + 1
    assert {g["lr"] for g in groups} == {0.5, 0.25, 1.0}


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="layer_decay"):
        parameter_groups(tiny_clip.towers(), 1.0, 1.0, 0.1, decay)
