"""The layer of each parameter of a tower, from its stem to its projection."""

import pytest

from core.models.layer_decay import layer_of
from tests.core.models import tiny_clip


def test_layers_count_from_the_stem_to_the_top_of_each_tower():
    towers = tiny_clip.towers()
    layers, top = layer_of(towers.visual)
    below = {name.removeprefix("body."): top - layer for name, layer in layers.items()}
    assert below["proj"] == below["ln_post.weight"] == 0
    assert below["transformer.resblocks.1.mlp.c_fc.weight"] == 1 and below["transformer.resblocks.0.attn.in_proj_weight"] == 2
    assert below["conv1.weight"] == below["positional_embedding"] == 3
    layers, top = layer_of(towers.text)
    assert (top - layers["body.text_projection"], top - layers["body.token_embedding.weight"]) == (0, 3)


@pytest.mark.parametrize("image, first, last", [("resnet10t", "conv1", "layer4"), ("vit_tiny_patch16_224", "patch_embed", "blocks.11")])
def test_timm_towers_have_their_projection_on_top(image, first, last):
    tower = tiny_clip.towers(image).visual
    layers, top = layer_of(tower)
    of = {key: {layer for name, layer in layers.items() if name.startswith(f"body.{key}")} for key in (first, last)}
    assert of[first] == {0} and layers["projection.weight"] == top > max(of[last])
