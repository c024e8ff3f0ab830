"""CLIP towers: names, shapes, locks, scale; whatever is asked of them has an effect."""

import dataclasses
import math

import pytest
import torch

from core.errors import UserError
from core.models import clip, clip_names
from core.models.clip import Temperature, build_towers
from tests.core.models import tiny_clip

IMAGES = tiny_clip.images()


def ids(towers) -> torch.Tensor:
    return towers.tokenizer(tiny_clip.SENTENCES).ids


def test_the_small_configuration_is_the_specifications():
    towers = tiny_clip.towers()
    assert sum(p.numel() for p in towers.parameters()) == pytest.approx(1.7e6, rel=0.05)
    assert towers.encode_image(IMAGES).shape == (3, 16) == towers.encode_text(ids(towers)).shape


@pytest.mark.parametrize(
    "image, grid, width",
    [(tiny_clip.IMAGE, 16, 64), ("resnet10t", 1, 512), ("small_cnn", 64, 128), ("vit_tiny_patch16_224", 4, 192), ("clip:RN50", 1, 2048)],
)
def test_any_image_tower_gives_embeddings_and_tokens(image, grid, width):
    towers = tiny_clip.towers(image).eval()
    with torch.no_grad():
        embeddings, tokens = towers.encode_image_and_tokens(IMAGES)
        torch.testing.assert_close(towers.encode_image(IMAGES), embeddings)
        torch.testing.assert_close(towers.image_tokens(IMAGES), tokens)
        torch.testing.assert_close(towers.visual.projection(towers.image_features(IMAGES)), embeddings)
    assert embeddings.shape == (3, 16) and tokens.shape == (3, grid, width)


def test_a_cnns_tokens_are_the_places_of_its_last_map():
    towers = tiny_clip.towers("resnet10t", image_size=64).eval()
    with torch.no_grad():
        found = towers.visual.body.forward_features(tiny_clip.images(2, 64))
        tokens = towers.image_tokens(tiny_clip.images(2, 64))
    assert torch.equal(tokens[:, 1], found[:, :, 0, 1])
    torch.testing.assert_close(tokens.mean(dim=1), towers.image_features(tiny_clip.images(2, 64)))


def test_a_resnet_with_clips_text_tower_has_the_published_size():
    towers = build_towers("resnet18", "clip:ViT-B/32")
    assert sum(p.numel() for p in towers.parameters()) == pytest.approx(74.9e6, rel=0.002)
    assert towers.tokenizer.context_length == 77 and towers.embed_dim == 512


def test_the_seed_decides_each_tower_and_the_global_generator_stays():
    before = torch.get_rng_state()
    one, same, other = (tiny_clip.towers("resnet10t", seed=s).eval() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for encode in (lambda t: t.encode_image(IMAGES), lambda t: t.encode_text(ids(t))):
        assert torch.equal(encode(one), encode(same)) and not torch.allclose(encode(one), encode(other))


def test_sizes_follow_the_options():
    towers = tiny_clip.towers(embed_dim=24, image_size=48, context_length=20)
    assert towers.encode_image(tiny_clip.images(2, 48)).shape == (2, 24) and ids(towers).shape == (3, 20)
    assert towers.encode_text(ids(towers)).shape == (3, 24)
    assert towers.image_tokens(tiny_clip.images(2, 48)).shape[1] == 36
    assert tiny_clip.towers(context_length=0).tokenizer.context_length == 64


def test_padding_does_not_change_a_text():
    towers = tiny_clip.towers().eval()
    tokens = ids(towers)
    noisy = tokens.clone()
    noisy[0, 8:] = 5
    torch.testing.assert_close(towers.encode_text(tokens)[0], towers.encode_text(noisy)[0])


def test_a_timm_tower_says_how_its_images_are_normalised():
    assert tiny_clip.towers("resnet10t").mean == pytest.approx((0.485, 0.456, 0.406))
    assert tiny_clip.towers().mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


@pytest.mark.parametrize("image", [tiny_clip.IMAGE, "resnet10t"])
def test_a_locked_image_tower_does_not_move(image):
    towers = tiny_clip.towers(image)
    towers.lock_image()
    towers.train()
    before = {name: value.clone() for name, value in towers.visual.body.state_dict().items()}
    optimizer = torch.optim.SGD(towers.parameters(), lr=0.1, weight_decay=0.1)
    cosines = torch.nn.functional.cosine_similarity(towers.encode_image(IMAGES), towers.encode_text(ids(towers)))
    cosines.sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in towers.visual.body.state_dict().items())
    assert not towers.image_features(IMAGES).requires_grad
    assert towers.training and not any(module.training for module in towers.visual.body.modules())


def test_behind_a_locked_timm_network_the_projection_trains():
    towers = tiny_clip.towers("resnet10t")
    towers.lock_image()
    towers.encode_image(IMAGES).sum().backward()
    assert towers.visual.projection.weight.grad is not None
    assert all(p.grad is None for p in towers.visual.body.parameters())


def test_word_supervision_of_a_locked_tower_has_no_gradient_into_it():
    towers = tiny_clip.towers("resnet10t")
    towers.lock_image()
    assert not towers.image_tokens(IMAGES).requires_grad


def test_unlocking_frees_what_was_free():
    towers = tiny_clip.towers()
    tiny_clip.add_lora(towers, rank=2, sides=("text",))
    free = {name for name, p in towers.named_parameters() if p.requires_grad}
    for lock in (towers.lock_image, towers.lock_text):
        lock()
        lock()
    assert {name for name, p in towers.named_parameters() if p.requires_grad} == {"logit_scale"}
    for lock in (towers.lock_image, towers.lock_text):
        lock(False)
    assert {name for name, p in towers.named_parameters() if p.requires_grad} == free
    assert all(module.training for module in towers.modules())


def test_the_scale_starts_at_the_temperature_and_stays_at_most_100():
    towers = tiny_clip.towers(temperature=Temperature(0.1))
    assert towers.scale().item() == pytest.approx(10.0)
    with torch.no_grad():
        towers.logit_scale.fill_(9.0)
    assert towers.scale().item() == pytest.approx(100.0)
    towers.scale().backward()
    assert towers.logit_scale.grad.item() == pytest.approx(100.0)
    assert tiny_clip.towers().scale().item() == pytest.approx(1 / 0.07)


def test_a_fixed_scale_does_not_train():
    towers = tiny_clip.towers(temperature=Temperature(learnable=False))
    assert not towers.scale().requires_grad and tiny_clip.towers().scale().requires_grad


@pytest.mark.parametrize("value", [-1.0, 0.005])
def test_a_temperature_out_of_range_is_refused(value):
    with pytest.raises(UserError, match=f"temperature={value} must be at least 0.01"):
        tiny_clip.towers(temperature=Temperature(value))


def test_the_digest_changes_with_weights_and_settings():
    digests = [
        tiny_clip.towers().visual.digest(),
        tiny_clip.towers(seed=2).visual.digest(),
        tiny_clip.towers(image_size=64).visual.digest(),
    ]
    assert len(set(digests)) == 3 and tiny_clip.towers().visual.digest() == digests[0]
    text = [tiny_clip.towers(context_length=n).text.digest() for n in (16, 20)]
    assert text[0] != text[1]


def test_it_learns_to_tell_two_sentences_apart():
    """A step of everything together: images of two brightnesses find their sentence."""
    from core.losses.image_text import multi_positive_contrast

    towers = tiny_clip.towers()
    labels = torch.tensor([0, 1] * 4)
    pictures = 0.1 * tiny_clip.images(8) + (2.0 * labels - 1)[:, None, None, None]
    tokens = towers.tokenizer(["a dark picture", "a bright picture"]).ids
    optimizer = torch.optim.AdamW(towers.parameters(), lr=1e-3)
    for _ in range(12):
        optimizer.zero_grad()
        loss = multi_positive_contrast(towers.encode_image(pictures), towers.encode_text(tokens)[labels], labels, towers.scale())
        loss.backward()
        optimizer.step()
    assert loss.item() < math.log(4) + 0.1
    with torch.no_grad():
        logits = (
            torch.nn.functional.normalize(towers.eval().encode_image(pictures))
            @ torch.nn.functional.normalize(towers.encode_text(tokens)).T
        )
    assert torch.equal(logits.argmax(dim=1), labels)


def test_quick_gelu_is_another_network_with_the_same_weights():
    plain = clip_names.text_tower(tiny_clip.TEXT, "", 16)
    towers = [clip._text_tower(dataclasses.replace(plain, quick_gelu=quick), 16, {}, "", 1)[0] for quick in (False, True)]
    tokens = ids(tiny_clip.towers())
    assert torch.equal(towers[0].body.text_projection, towers[1].body.text_projection)
    assert not torch.allclose(towers[0](tokens), towers[1](tokens)) and towers[0].digest() != towers[1].digest()
