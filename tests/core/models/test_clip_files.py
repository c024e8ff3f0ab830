"""A published CLIP computes here what it computes where it comes from: naming, activation and preprocessing are its own."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from core.data.images import ArrayImages
from core.data.views import ViewSpec, evaluation_view, resize_all
from core.errors import UserError
from core.models import backbones, clip_names, preprocessing
from core.models.clip import build_image_tower, build_towers
from core.models.preprocessing import OLDER, Preprocessing
from tests.core.models import tiny_clip

open_clip = pytest.importorskip("open_clip")
VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "layers": 2, "heads": 1}
THEIRS = {
    "model_type": "clip",
    "projection_dim": 16,
    "vision_config": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"image_size": 32, "patch_size": 8},
    "text_config": {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1}
    | {"max_position_embeddings": 16, "vocab_size": 49408},
}
SEEN = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 2, "do_center_crop": True}
IMAGES = tiny_clip.images()


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path) -> Path:
    """The hub's cache: empty, and nothing is ever fetched into it."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def model(quick: bool = True) -> torch.nn.Module:
    """open_clip's own small model with random weights; the towers' biases too, which it draws as zeros."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        made = open_clip.CLIP(16, VISION, TEXT, quick_gelu=quick).eval()
        with torch.no_grad():
            for name, value in made.named_parameters():
                if name != "logit_scale":
                    value.add_(0.05 * torch.randn_like(value))
    return made


def theirs(state: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """Return open_clip's tensors as transformers names them."""
    found = {}
    for name, value in state.items():
        side, rest = ("vision", name.removeprefix("visual.")) if name.startswith("visual.") else ("text", name)
        rest = re.sub(r"^transformer\.resblocks", "encoder.layers", rest)
        for here, there in (
            ("ln_1", "layer_norm1"),
            ("ln_2", "layer_norm2"),
            ("c_fc", "fc1"),
            ("c_proj", "fc2"),
            ("attn.out", "self_attn.out"),
        ):
            rest = rest.replace(here, there)
        for here, there in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm"), ("ln_final", "final_layer_norm")):
            rest = rest.replace(here, there)
        renamed = {
            "class_embedding": "embeddings.class_embedding",
            "conv1.weight": "embeddings.patch_embedding.weight",
            "positional_embedding": "embeddings.position_embedding.weight",
            "token_embedding.weight": "embeddings.token_embedding.weight",
        }
        if name in ("visual.proj", "text_projection"):
            found["visual_projection.weight" if side == "vision" else "text_projection.weight"] = value.T
        elif name == "logit_scale":
            found[name] = value
        elif "in_proj" in rest:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                found[f"{side}_model.{rest.replace('attn.in_proj_', f'self_attn.{part}_proj.')}"] = third
        else:
            found[f"{side}_model.{renamed.get(rest, rest)}"] = value
    found["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    return {prefix + name: value.contiguous().clone() for name, value in found.items()}


def written(folder: Path, naming: str, quick: bool, prefix: str = "") -> Path:
    """Write a model and its configuration in `transformers` or `open_clip` format."""
    folder.mkdir(parents=True)
    state = {name: value.contiguous().clone() for name, value in model(quick).state_dict().items()}
    if naming == "transformers":
        save_file(theirs(state, prefix), folder / "model.safetensors")
        act = {"hidden_act": "quick_gelu" if quick else "gelu"}
        parts = {side: THEIRS[side] | act for side in ("vision_config", "text_config")}
        (folder / "config.json").write_text(json.dumps(THEIRS | parts))
        (folder / "preprocessor_config.json").write_text(json.dumps(SEEN | {"size": {"shortest_edge": 32}, "crop_size": {"height": 32}}))
    else:
        save_file({prefix + name: value for name, value in state.items()}, folder / "open_clip_model.safetensors")
        about = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT} | ({"quick_gelu": True} if quick else {})
        seen = {"mean": SEEN["image_mean"], "std": SEEN["image_std"], "interpolation": "bilinear", "resize_mode": "shortest"}
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": about, "preprocess_cfg": seen}))
    return folder


def agrees(towers, quick: bool) -> bool:
    """Say whether towers give the features of open_clip's own model, within 1e-4."""
    own, ids = model(quick), towers.eval().tokenizer(tiny_clip.SENTENCES).ids
    with torch.no_grad():
        pairs = (towers.encode_image(IMAGES), own.encode_image(IMAGES)), (towers.encode_text(ids), own.encode_text(ids))
        return all((mine - other).abs().max() <= 1e-4 for mine, other in pairs)


def build(image: str, text: str, **options):
    return build_towers(image, text, **{"embed_dim": 16, "image_size": 32, **options})


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("naming", ["transformers", "open_clip"])
def test_a_folder_gives_the_features_of_open_clip(tmp_path, naming, quick):
    place = str(written(tmp_path / "clip", naming, quick))
    towers = build(place, place)
    assert agrees(towers, quick) and not agrees(towers, not quick)
    assert towers.preprocessing == Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear")
    given = build("clip:small-64x2", "clip:small-32x2", image_weights=place, text_weights=place, context_length=16)
    assert agrees(given, quick) and given.preprocessing == towers.preprocessing


@pytest.mark.parametrize("naming, prefix", [("transformers", "module."), ("transformers", "clip.model."), ("open_clip", "module.")])
def test_a_prefix_is_taken_off_in_both_namings(tmp_path, naming, prefix):
    place = str(written(tmp_path / "clip", naming, True, prefix))
    assert agrees(build(place, place), True)


@pytest.mark.parametrize("name", ["openai/clip-vit-base-patch32", "someone/own-clip"])
@pytest.mark.parametrize("naming", ["transformers", "open_clip"])
def test_a_repository_in_the_hubs_cache_needs_no_network(hub, name, naming):
    folder = hub / f"models--{name.replace('/', '--')}"
    written(folder / "snapshots" / "abc123", naming, True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc123")
    assert agrees(build(name, name), True)
    assert agrees(build(str(folder), str(folder)), True)
    assert agrees(build("clip:small-64x2", "clip:small-32x2", image_weights=name, text_weights=name, context_length=16), True)


@pytest.mark.parametrize("offline, said", [(True, "HF_HUB_OFFLINE is set"), (False, "cannot be downloaded")])
@pytest.mark.parametrize("name", ["openai/clip-vit-base-patch32", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "someone/own-clip"])
@pytest.mark.parametrize("option", ["name", "weights"])
def test_a_missing_repository_is_one_line_and_quick(monkeypatch, offline, said, name, option):
    """Without a network: nothing listens at the address that the hub is given here."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    begun = time.monotonic()
    if (name, option) == ("someone/own-clip", "name"):
        pytest.skip("no name that is known: see test_clip_names")
    with pytest.raises(UserError, match=f"{said}.*give text_weights=") as caught:
        if option == "weights":
            build("small_cnn", "clip:small-32x2", text_weights=name)
        build("small_cnn", name, embed_dim=512)
    assert "\n" not in str(caught.value) and time.monotonic() - begun < 30


def bare(path: Path, how: str) -> str:
    """Write the tensors alone, as a release of OpenAI's or one trained in single precision would be."""
    state = {name: value.contiguous().clone() for name, value in model().state_dict().items()}
    if how == "halves":
        state = {name: value.half().float() if "weight" in name else value for name, value in state.items()}
    if how == "scalars":
        state |= {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    save_file(state, path)
    return str(path)


@pytest.mark.parametrize("how, quick", [("halves", True), ("scalars", True), ("single", False)])
def test_bare_weights_are_looked_at(tmp_path, monkeypatch, capsys, how, quick):
    known = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: json.loads(json.dumps(known)))
    path = bare(tmp_path / "clip.safetensors", how)
    towers = build("clip:ViT-B/32", "clip:ViT-B/32", image_weights=path, text_weights=path)
    assert (towers.visual.settings["quick_gelu"], towers.text.settings["quick_gelu"]) == (quick, quick)
    assert ("QuickGELU is taken" in capsys.readouterr().err) is quick
    assert towers.preprocessing == Preprocessing()
    tagged = build("clip:ViT-B/32", "clip:ViT-B/32", image_weights=path, text_weights=path, image_pretrained="openai")
    assert tagged.visual.settings["quick_gelu"] is True


def test_a_registered_tower_is_built_again_without_its_files(tmp_path):
    place = written(tmp_path / "clip", "transformers", True)
    tower = build(str(place), str(place)).visual.eval()
    settings = json.loads(json.dumps(tower.settings))
    for file in place.iterdir():
        file.unlink()
    place.rmdir()
    again = build_image_tower(str(place), "", 16, 32, settings)
    again.load_state_dict(tower.state_dict())
    assert torch.equal(again.eval()(IMAGES), tower(IMAGES))
    both = build(str(place), "clip:small-32x2", context_length=16, settings={"image": settings})
    assert both.visual.settings == tower.settings


@pytest.mark.parametrize(
    "config, expected",
    [
        ({"size": 224, "crop_size": 224}, Preprocessing()),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, Preprocessing(margin=256 / 224)),
        (
            {"size": {"height": 224, "width": 224}, "do_center_crop": False, "resample": 2},
            Preprocessing((*preprocessing.CLIP_MEAN,), interpolation="bilinear", resize_mode="squash"),
        ),
    ],
)
def test_a_preprocessor_configuration_is_read(config, expected):
    assert preprocessing.of_transformers(config, "x") == expected


def test_what_is_not_done_here_is_refused():
    with pytest.raises(UserError, match="'x' wants images resized by 'longest'"):
        preprocessing.of_open_clip({"resize_mode": "longest"}, "x")
    with pytest.raises(UserError, match="'x' wants the interpolation '0'"):
        preprocessing.of_transformers({"resample": 0}, "x")


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("shape", [(90, 60), (50, 120), (64, 64)])
def test_views_are_those_of_open_clips_transform(mode, shape):
    """CLIP cuts nothing off the square; the difference left is the rounding of 8 bits and the taps across the crop's edge."""
    ramp = np.add.outer(np.linspace(0, 120, shape[0]), np.linspace(0, 120, shape[1]))
    pixels = np.stack([ramp, ramp[::-1], 240 - ramp], 2).astype(np.uint8)
    spec = ViewSpec.of(Preprocessing(resize_mode=mode).views(32))
    mine = evaluation_view(resize_all(ArrayImages(pixels[None]), spec).batch(np.array([0])), spec)[0]
    cfg = open_clip.transform.PreprocessCfg(size=32, resize_mode=mode)
    other = open_clip.transform.image_transform_v2(cfg, is_train=False)(Image.fromarray(pixels))
    assert (mine - other).abs().mean() < 0.02
    older = ViewSpec.of(OLDER.views(32))
    cut = evaluation_view(resize_all(ArrayImages(pixels[None]), older).batch(np.array([0])), older)[0]
    assert (cut - other).abs().mean() > 0.05


def test_names_say_what_their_images_are_like():
    assert clip_names.image_tower("clip:ViT-B/32", "openai", 224).preprocessing == Preprocessing()
    assert clip_names.image_tower("clip:small", "", 224).preprocessing == OLDER
    siglip = clip_names.image_tower("ViT-B-16-SigLIP", "webli", 224).preprocessing
    assert (siglip.resize_mode, siglip.mean) == ("squash", (0.5, 0.5, 0.5))


def test_a_folder_that_says_nothing_is_named(tmp_path):
    (tmp_path / "clip").mkdir()
    with pytest.raises(UserError, match=r"text_encoder_name=.*clip has no open_clip_config\.json or config\.json"):
        build("small_cnn", str(tmp_path / "clip"))
    with pytest.raises(UserError, match=r"text_weights=.*clip is a folder without open_clip_model\.safetensors or model\.safetensors"):
        build("small_cnn", "clip:small-32x2", text_weights=str(tmp_path / "clip"))


def test_timm_weights_bring_their_own_colours(tmp_path):
    net = backbones._create("resnet10t", 32)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet10t", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    )
    for weights in (tmp_path, tmp_path / "model.safetensors"):
        found = backbones.build("resnet10t", 32, 0, str(weights))
        assert (found.mean, found.std) == ((0.5,) * 3, (0.25,) * 3)


def test_the_command_that_a_refused_pickle_names_converts_it(tmp_path):
    net = backbones.build("small_cnn", 8, 0, seed=5).tail.net.state_dict()
    path = tmp_path / "of mine.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in net.items()}, "epoch": 3}, path)
    with pytest.raises(UserError, match="is a pickle") as caught:
        backbones.build("small_cnn", 8, 0, str(path))
    command = str(caught.value).partition("give that file: ")[2].replace("python ", f"{sys.executable} ", 1)
    subprocess.run(command, shell=True, check=True)
    loaded = backbones.build("small_cnn", 8, 0, str(tmp_path / "of mine-converted.safetensors")).tail.net.state_dict()
    assert all(torch.equal(value, net[name]) for name, value in loaded.items())


def test_equal_weights_that_are_used_otherwise_have_another_key(tmp_path):
    """The activation and the colours beside the weights decide the features as the weights do."""
    from core.stages import keys

    place, found = written(tmp_path / "clip", "transformers", True), []
    for change in ({}, {"hidden_act": "gelu"}):
        parts = {side: THEIRS[side] | {"hidden_act": "quick_gelu"} | change for side in ("vision_config", "text_config")}
        (place / "config.json").write_text(json.dumps(THEIRS | parts))
        found.append(keys.of_tower("clip:small-64x2", "", str(place), "image", 32, 0))
    (place / "preprocessor_config.json").unlink()
    found.append(keys.of_tower("clip:small-64x2", "", str(place), "image", 32, 0))
    assert len(set(found)) == 3
