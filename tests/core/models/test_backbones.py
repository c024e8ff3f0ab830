"""`build`: names, sizes, seeds, digests."""

import pytest
import torch

from core.errors import UserError
from core.models.backbones import build

pytest.importorskip("timm")


def test_a_typing_mistake_gets_the_nearest_name():
    with pytest.raises(UserError, match=r"model_name=mobilnetv2_100 is not a timm model; did you mean 'mobilenetv2_100'\?"):
        build("mobilnetv2_100", 96, 5)
    with pytest.raises(UserError, match=r"did you mean 'small_cnn'\?"):
        build("smal_cnn", 8, 0)


def test_an_unknown_tag_gets_the_nearest_tag():
    with pytest.raises(UserError, match=r"no weights tagged 'dinos'; did you mean 'vit_base_patch16_224\.dino'\?"):
        build("vit_base_patch16_224.dinos", 224, 11)


def test_an_unknown_batch_norm_mode_is_refused():
    with pytest.raises(UserError, match="batch_norm=eval"):
        build("small_cnn", 8, 0, batch_norm="eval")


def test_an_image_size_that_does_not_fit_the_patch_is_refused():
    with pytest.raises(UserError, match="image_size=100"):
        build("vit_tiny_patch16_224", 100, 11, pretrained=False)


@pytest.mark.parametrize("size", [96, 224])
def test_a_vit_takes_other_image_sizes(size):
    backbone = build("vit_tiny_patch16_224", size, 11, pretrained=False)
    tokens = backbone.trunk(torch.zeros(1, 3, size, size))
    assert tokens.shape == (1, (size // 16) ** 2 + 1, 192) and backbone.feature_dim == 192


def test_statistics_are_those_of_the_pretraining():
    assert build("vit_tiny_patch16_224", 224, 12, pretrained=False).mean == (0.5, 0.5, 0.5)
    assert build("resnet10t", 64, 4, pretrained=False).mean == pytest.approx((0.485, 0.456, 0.406))


def test_the_pooled_width_is_what_the_tail_gives():
    """MobileNetV3 widens after pooling: the width of its last stage would be wrong."""
    assert build("mobilenetv3_small_050", 32, 3, pretrained=False).feature_dim == 1024


@pytest.mark.parametrize("name, size", [("small_cnn", 8), ("resnet10t", 32)])
def test_the_seed_decides_the_weights_and_the_digest_tells(name, size):
    before = torch.get_rng_state()
    one, same, other = (build(name, size, 2, pretrained=False, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.trunk_digest == same.trunk_digest != other.trunk_digest
    assert one.trunk_digest != build(name, size, 1, pretrained=False, seed=1).trunk_digest


def test_building_leaves_running_statistics_and_the_mode_alone():
    backbone = build("resnet10t", 64, 2, pretrained=False)
    assert backbone.tail.training and int(backbone.tail.net.layer4[0].bn1.num_batches_tracked) == 0
