"""Weights of towers: from a whole CLIP or one tower, fitted to size and context, refused when of another tower."""

import math

import pytest
import torch
from safetensors.torch import save_file

from core.errors import UserError
from core.models import clip_weights
from core.models.clip import Temperature, build_towers
from tests.core.models import tiny_clip

open_clip = pytest.importorskip("open_clip")
IMAGES = tiny_clip.images()


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    """No test reaches for the hub or reads the user's cache of it."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def whole(seed: int = 7, custom: bool = True, scale: float = 3.0) -> torch.nn.Module:
    """open_clip's own model of the tests' sizes, in its newer or older naming."""
    vision = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "layers": 2, "heads": 1}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(16, vision, text)
    with torch.no_grad():
        model.logit_scale.fill_(scale)
    return model.eval()


def stored(state, path, half: bool = False) -> str:
    save_file({name: (value.half() if half else value).contiguous() for name, value in state.items()}, path)
    return str(path)


@pytest.mark.parametrize("custom", [True, False])
def test_a_whole_clip_of_open_clip_computes_the_same_here(tmp_path, custom):
    model = whole(custom=custom)
    path = stored(model.state_dict(), tmp_path / "clip.safetensors")
    towers = tiny_clip.towers(image_weights=path, text_weights=path, temperature=Temperature(0.0)).eval()
    ids = towers.tokenizer(tiny_clip.SENTENCES).ids
    with torch.no_grad():
        torch.testing.assert_close(towers.encode_image(IMAGES), model.encode_image(IMAGES))
        torch.testing.assert_close(towers.encode_text(ids), model.encode_text(ids))
    assert towers.scale().item() == pytest.approx(math.exp(3.0))


def test_each_tower_takes_its_own_file(tmp_path):
    path = stored(whole().state_dict(), tmp_path / "clip.safetensors")
    plain, image, text = (tiny_clip.towers(**o).eval() for o in ({}, {"image_weights": path}, {"text_weights": path}))
    ids = plain.tokenizer(tiny_clip.SENTENCES).ids
    assert not torch.allclose(plain.encode_image(IMAGES), image.encode_image(IMAGES))
    assert torch.equal(plain.encode_text(ids), image.encode_text(ids))
    assert not torch.allclose(plain.encode_text(ids), text.encode_text(ids))


def test_one_tower_alone_is_a_file_too(tmp_path):
    model = whole()
    path = stored(model.visual.state_dict(), tmp_path / "visual.safetensors")
    towers = tiny_clip.towers(image_weights=path).eval()
    torch.testing.assert_close(towers.encode_image(IMAGES), model.encode_image(IMAGES))


@pytest.mark.parametrize("image", [tiny_clip.IMAGE, "resnet10t"])
def test_towers_trained_here_load_again(tmp_path, image):
    trained = tiny_clip.towers(image, seed=5).eval()
    path = stored(trained.state_dict(), tmp_path / "own.safetensors")
    again = tiny_clip.towers(image, image_weights=path, text_weights=path).eval()
    assert torch.equal(again.image_features(IMAGES), trained.image_features(IMAGES))
    assert again.text.digest() == trained.text.digest() and again.visual.digest() == trained.visual.digest()


def test_a_timm_tower_takes_the_plain_networks_file(tmp_path):
    other = tiny_clip.towers("resnet10t", seed=5).eval()
    path = stored(other.visual.body.state_dict(), tmp_path / "resnet.safetensors")
    assert torch.equal(tiny_clip.towers("resnet10t", image_weights=path).eval().image_features(IMAGES), other.image_features(IMAGES))


def test_half_precision_weights_are_read_into_full(tmp_path):
    path = stored(whole().state_dict(), tmp_path / "half.safetensors", half=True)
    towers = tiny_clip.towers(image_weights=path, text_weights=path)
    assert all(p.dtype == torch.float32 for p in towers.parameters())


def test_a_shorter_context_sees_what_the_longer_one_saw(tmp_path):
    model = whole()
    path = stored(model.state_dict(), tmp_path / "clip.safetensors")
    short = tiny_clip.towers(text_weights=path, context_length=9).eval()
    long = tiny_clip.towers(text_weights=path).eval()
    texts = ["a healthy leaf", ""]
    torch.testing.assert_close(short.encode_text(short.tokenizer(texts).ids), long.encode_text(long.tokenizer(texts).ids))
    with pytest.raises(UserError, match=r"context_length=20: the weights .*clip\.safetensors have 16 positions; give 16 or less"):
        tiny_clip.towers(text_weights=path, context_length=20)


def test_another_image_size_resamples_the_positions(tmp_path):
    path = stored(whole().state_dict(), tmp_path / "clip.safetensors")
    net = tiny_clip.towers("clip:small-64x2", image_size=48).visual.body
    clip_weights.load(net, dict(whole().state_dict()), "image", "x", path)
    old, new = whole().visual.positional_embedding, net.positional_embedding
    assert new.shape == (37, 64) and torch.equal(new[0], old[0])
    assert torch.nn.functional.cosine_similarity(new[1], old[1], dim=0) > 0.8


def test_another_tower_is_named_with_the_first_mismatch(tmp_path):
    path = stored(whole().state_dict(), tmp_path / "clip.safetensors")
    with pytest.raises(
        UserError, match=r"image_weights=.*clip\.safetensors are not those of image_encoder_name=clip:small-96x2: '.*' has shape"
    ):
        tiny_clip.towers("clip:small-96x2", image_weights=path)
    with pytest.raises(UserError, match=r"text_weights=.* are not those of text_encoder_name=clip:small-32x3: 'transformer\.resblocks\.2"):
        tiny_clip.towers(text="clip:small-32x3", text_weights=path)
    with pytest.raises(UserError, match=r"image_weights=.* are not those of image_encoder_name=resnet10t"):
        tiny_clip.towers("resnet10t", image_weights=path)


@pytest.mark.parametrize("option", ["image_weights", "text_weights"])
def test_a_pickle_a_gap_and_a_stump_are_refused_by_option(tmp_path, option):
    torch.save({"x": torch.zeros(2)}, tmp_path / "clip.pt")
    (tmp_path / "stump.safetensors").write_bytes(b"\x10\0\0")
    for name, said in (
        ("clip.pt", "is a pickle"),
        ("gone.safetensors", "no such file"),
        ("stump.safetensors", "not a whole safetensors file"),
    ):
        with pytest.raises(UserError, match=f"{option}=.*{name}.*{said}"):
            tiny_clip.towers(**{option: str(tmp_path / name)})


@pytest.mark.parametrize(
    "options, said",
    [
        ({"image_encoder_name": "ViT-B-32", "image_pretrained": "openai"}, "give image_weights="),
        ({"text_encoder_name": "clip:ViT-B/32", "text_pretrained": "openai"}, "give text_weights="),
        ({"image_encoder_name": "openai/clip-vit-base-patch32"}, r"timm/vit_base_patch32_clip_224\.openai .*give image_weights="),
        ({"image_encoder_name": "resnet18", "image_pretrained": "default"}, r"timm/resnet18\.a1_in1k .*give image_weights="),
        ({"image_encoder_name": "resnet18", "image_pretrained": "a9_in1k"}, "image_encoder_name=resnet18.a9_in1k: .*did you mean"),
        ({"text_encoder_name": "clip:ViT-B/32", "text_weights": "someone/clip"}, r"someone/clip .*give text_weights="),
    ],
)
def test_without_the_hub_one_line_names_the_option(options, said):
    with pytest.raises(UserError, match=said) as caught:
        build_towers(**{"image_encoder_name": "small_cnn", "text_encoder_name": tiny_clip.TEXT, **options})
    assert "\n" not in str(caught.value)


def test_a_given_file_goes_before_the_tag_of_the_name(tmp_path):
    """`openai/clip-...` with a local file keeps OpenAI's activation and asks no hub."""
    model = open_clip.CustomTextCLIP(
        512, {"image_size": 32, "patch_size": 32, "width": 64, "layers": 1}, {"width": 32, "layers": 1, "heads": 1}
    )
    path = stored(model.state_dict(), tmp_path / "clip.safetensors")
    with pytest.raises(UserError, match=r"text_weights=.*clip\.safetensors are not those of text_encoder_name=ViT-B-32"):
        build_towers("small_cnn", "openai/clip-vit-base-patch32", text_weights=path)


def test_published_weights_come_as_safetensors_from_their_own_repository(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []
    path = stored(whole().state_dict(), tmp_path / "clip.safetensors")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *names, **options: asked.append(names) or path)
    with pytest.raises(UserError, match="are not those of text_encoder_name=ViT-B-32"):
        build_towers("small_cnn", "clip:ViT-B/32", text_pretrained="laion2b_s34b_b79k", context_length=16)
    assert asked == [("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "open_clip_model.safetensors")]


def test_published_weights_have_their_own_width():
    with pytest.raises(UserError, match=r"embed_dim=256: the openai weights of ViT-B-32 embed in 512; give embed_dim=512"):
        build_towers("small_cnn", "openai/clip-vit-base-patch32", embed_dim=256)


def test_the_temperature_of_the_weights_needs_one_file_for_both(tmp_path):
    path = stored(whole().state_dict(), tmp_path / "clip.safetensors")
    for options in ({}, {"text_weights": path}):
        with pytest.raises(UserError, match="temperature=0 takes that of the weights"):
            tiny_clip.towers(temperature=Temperature(0.0), **options)
    hot = stored(whole(scale=9.0).state_dict(), tmp_path / "hot.safetensors")
    towers = tiny_clip.towers(image_weights=hot, text_weights=hot, temperature=Temperature(0.0))
    assert towers.scale().item() == pytest.approx(100.0)


@pytest.mark.parametrize("custom", [True, False])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module.towers.", "state.model."])
def test_a_prefix_of_a_whole_clip_is_taken_off(tmp_path, capsys, custom, prefix):
    model = whole(custom=custom)
    path = stored({prefix + name: value for name, value in model.state_dict().items()}, tmp_path / "clip.safetensors")
    towers = tiny_clip.towers(image_weights=path, text_weights=path).eval()
    with torch.no_grad():
        torch.testing.assert_close(towers.encode_image(IMAGES), model.encode_image(IMAGES))
        torch.testing.assert_close(
            towers.encode_text(towers.tokenizer(tiny_clip.SENTENCES).ids), model.encode_text(towers.tokenizer(tiny_clip.SENTENCES).ids)
        )
