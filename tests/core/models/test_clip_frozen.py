"""What of an image tower is frozen, what trains, and that both together are the tower."""

import pytest
import torch

from core.errors import UserError
from core.models import clip
from tests.core.models import tiny_clip

IMAGES = tiny_clip.images()
CASES = [("resnet10t", 0), ("resnet10t", 3), ("small_cnn", 2), ("mobilenetv2_035", 6), ("vit_tiny_patch16_224", 11), (tiny_clip.IMAGE, 0)]


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("image, block", CASES)
def test_frozen_then_trained_is_the_tower(image, block, locked):
    towers = tiny_clip.towers(image).eval()
    whole, tokens = towers.image_features(IMAGES), towers.image_tokens(IMAGES)
    towers.visual.freeze_stages(block)
    towers.lock_image(locked)
    kept = towers.visual.frozen(IMAGES)
    features, found = towers.visual.trained(kept, with_tokens=True)
    torch.testing.assert_close(features, whole)
    assert found is None if locked else torch.allclose(found, tokens, atol=1e-5)
    assert not kept.requires_grad and (locked or block or kept is IMAGES)


@pytest.mark.parametrize("image, block", [case for case in CASES if case[1]])
def test_frozen_stages_do_not_move_and_the_rest_does(image, block):
    towers = tiny_clip.towers(image)
    towers.visual.freeze_stages(block)
    towers.train()
    frozen = {id(t) for module in towers.visual.frozen_modules() for t in (*module.parameters(), *module.buffers())}
    before = {name: (t, t.detach().clone()) for name, t in towers.visual.state_dict(keep_vars=True).items()}
    optimizer = torch.optim.SGD([p for p in towers.visual.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    towers.visual.projection(towers.visual.trained(towers.visual.frozen(IMAGES))[0]).square().sum().backward()
    optimizer.step()
    assert frozen and all(torch.equal(t, old) for t, old in before.values() if id(t) in frozen)
    moved = [not torch.equal(t, old) for t, old in before.values() if id(t) not in frozen and t.requires_grad]
    assert moved and sum(moved) > len(moved) / 2  # a zero-initialised scale keeps what is behind it still for a step
    assert not any(module.training for part in towers.visual.frozen_modules() for module in part.modules())


def test_the_digest_of_the_frozen_part_is_that_of_what_it_computes():
    def digest(block=0, locked=False, **options):
        towers = tiny_clip.towers("resnet10t", **options)
        towers.visual.freeze_stages(block)
        towers.lock_image(locked)
        return towers.visual.frozen_digest()

    assert digest() == ""
    found = [digest(2), digest(3), digest(locked=True), digest(2, seed=2), digest(2, image_size=64)]
    assert len(set(found)) == 5 and digest(2) == found[0]


@pytest.mark.parametrize(
    "image, block, said", [(tiny_clip.IMAGE, 1, "only timm image towers"), ("resnet10t", 9, "image_encoder_name|beyond")]
)
def test_stages_that_are_not_there_are_refused(image, block, said):
    with pytest.raises(UserError, match=said):
        tiny_clip.towers(image).visual.freeze_stages(block)


@pytest.mark.parametrize("image", ["resnet10t", tiny_clip.IMAGE, "clip:RN50"])
def test_an_image_tower_alone_takes_the_weights_of_the_whole(image):
    whole = tiny_clip.towers(image).eval().visual
    alone = clip.build_image_tower(image, "", 16, 32).eval()
    alone.load_state_dict(whole.state_dict())
    with torch.no_grad():
        assert torch.equal(alone(IMAGES), whole(IMAGES))


def test_a_tag_of_weights_is_not_fetched_for_a_tower_alone():
    assert clip.build_image_tower("resnet10t.c3_in1k", "", 16, 32).embed_dim == 16
    quick, plain = (clip.build_image_tower("ViT-B-32", tag, 512, 224).settings["quick_gelu"] for tag in ("openai", "laion2b_s34b_b79k"))
    assert quick and not plain
