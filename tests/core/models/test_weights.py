"""Weights are loaded safely, whole and into their own architecture, or refused in one line."""

import json
import re
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.errors import UserError
from core.models import backbones, weights, weights_fit
from core.models.backbones import build

SHARED = Path(__file__).resolve().parents[4] / "shared" / "weights"
REAL, HALF = SHARED / "mobilenetv2_100.safetensors", SHARED / "deit_tiny_patch16_224.safetensors"
timm = pytest.importorskip("timm")


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    """No test reaches for the hub or reads the user's cache of it."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def resnet_file(tmp_path) -> Path:
    """A whole classifier's file, as the hub has them: the classifier is in it."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        net = timm.create_model("resnet10t", pretrained=False)
    path = tmp_path / "resnet10t.safetensors"
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, path)
    return path


def test_a_file_is_loaded_and_its_classifier_ignored(resnet_file):
    backbone = build("resnet10t", 64, 3, weights=str(resnet_file))
    stored = weights.read_safetensors(resnet_file)
    assert torch.equal(backbone.trunk.net.conv1[0].weight, stored["conv1.0.weight"])
    assert torch.equal(backbone.tail.net.layer4[0].conv1.weight, stored["layer4.0.conv1.weight"])
    assert build("resnet10t", 64, 3, weights=str(resnet_file), seed=2).trunk_digest == backbone.trunk_digest


def test_own_network_takes_a_file_too(tmp_path):
    other = build("small_cnn", 8, 0, seed=5).tail.net
    save_file(other.state_dict(), tmp_path / "small.safetensors")
    loaded = build("small_cnn", 8, 0, weights=str(tmp_path / "small.safetensors")).tail.net
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), loaded.parameters(), strict=True))


def test_another_architecture_is_named_with_the_first_mismatch(resnet_file):
    with pytest.raises(UserError, match=r"resnet10t\.safetensors are not those of model_name=resnet18: 'conv1\.weight' .* is missing"):
        build("resnet18", 64, 3, weights=str(resnet_file))


def test_another_width_is_named_with_both_shapes(tmp_path):
    state = backbones._create("vit_tiny_patch16_224", 224).state_dict()
    state["norm.weight"] = torch.zeros(384)
    save_file(state, tmp_path / "vit.safetensors")
    with pytest.raises(UserError, match=r"'norm\.weight' has shape \(384,\), expected \(192,\)"):
        build("vit_tiny_patch16_224", 224, 11, weights=str(tmp_path / "vit.safetensors"))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_under_any_name(tmp_path, suffix, zipped):
    path = tmp_path / f"weights{suffix}"
    torch.save({"x": torch.zeros(2)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"is a pickle.*convert to safetensors"):
        build("small_cnn", 8, 0, weights=str(path))


def test_a_truncated_file_is_refused(resnet_file):
    whole = resnet_file.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 12, 3, 0):
        resnet_file.write_bytes(whole[:length])
        with pytest.raises(UserError, match="not a whole safetensors file"):
            build("resnet10t", 64, 3, weights=str(resnet_file))


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    """0x80 is also a header of 128 bytes: the magic alone would refuse a good file."""
    path = tmp_path / "good.safetensors"
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(0x80)
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", 1.5))
    assert weights.read_safetensors(path)["x"].item() == 1.5


@pytest.mark.parametrize("size", [224, 96])
def test_a_vit_file_fills_every_weight(tmp_path, size):
    """The network is built without random weights for it, so that nothing may be left unfilled."""
    state = backbones._create("vit_tiny_patch16_224", 224).state_dict()
    save_file(state, tmp_path / "vit.safetensors")
    net = build("vit_tiny_patch16_224", size, 0, weights=str(tmp_path / "vit.safetensors")).tail.net
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.safetensors: no such file"):
        build("resnet10t", 64, 3, weights=str(tmp_path / "gone.safetensors"))


def test_without_the_hub_one_line_says_what_to_give():
    with pytest.raises(UserError, match=r"timm/vit_base_patch16_224\.dino .*HF_HUB_OFFLINE.*weights=<local \.safetensors") as caught:
        build("vit_base_patch16_224.dino", 224, 11)
    assert "\n" not in str(caught.value)


def test_without_a_network_the_hub_is_asked_once(monkeypatch):
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise ConnectionError("Name or service\nnot known")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    with pytest.raises(UserError, match=r"cannot be downloaded \(Name or service not known\); give weights="):
        build("resnet18", 64, 3)


def test_a_hub_id_is_looked_up_by_its_own_name():
    with pytest.raises(UserError, match="pretrained weights somebody/resnet are not in the cache"):
        build("resnet18", 64, 3, weights="somebody/resnet")


def test_a_cached_hub_file_needs_no_network(monkeypatch, resnet_file):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *names, **options: asked.append((names, options)) or str(resnet_file))
    assert build("resnet10t", 64, 3).feature_dim == 512
    assert asked == [(("timm/resnet10t.c3_in1k", "model.safetensors"), {"local_files_only": True})]


def test_a_counter_that_old_files_lack_is_no_mismatch(resnet_file):
    state = {k: v for k, v in weights.read_safetensors(resnet_file).items() if not k.endswith("num_batches_tracked")}
    save_file(state, resnet_file)
    assert build("resnet10t", 64, 0, weights=str(resnet_file)).feature_dim == 512


def test_foreign_names_go_through_timms_converter(tmp_path):
    """ConvNeXt's authors name things differently; timm converts, and the result is checked like any other."""
    net = backbones._create("convnext_atto", 64)
    state = {key: value.contiguous() for key, value in net.state_dict().items()}
    foreign = {}
    for key, value in state.items():
        key = re.sub(r"^stem\.", "downsample_layers.0.", key)
        key = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", key)
        foreign[re.sub(r"^stages\.(\d)\.blocks\.", r"stages.\1.", key)] = value
    foreign = {k.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv").replace("head.norm.", "norm."): v for k, v in foreign.items()}
    save_file(foreign, tmp_path / "convnext.safetensors")
    backbone = build("convnext_atto", 64, 3, weights=str(tmp_path / "convnext.safetensors"), seed=9)
    assert torch.equal(backbone.tail.net.stages[0].blocks[0].mlp.fc1.weight, state["stages.3.blocks.0.mlp.fc1.weight"])


@pytest.mark.skipif(not REAL.is_file(), reason="real weights ../shared/weights/mobilenetv2_100.safetensors are not here")
def test_real_weights_load_and_the_split_is_exact():
    backbone = build("mobilenetv2_100", 96, 5, weights=str(REAL))
    whole = build("mobilenetv2_100", 96, 0, weights=str(REAL))
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(backbone.tail.eval()(backbone.trunk(x)), whole.tail.eval()(x))
    assert backbone.feature_dim == 1280 and len(backbone.trunk_digest) == 64


@pytest.mark.skipif(not HALF.is_file(), reason="real weights ../shared/weights/deit_tiny_patch16_224.safetensors are not here")
def test_real_weights_of_half_precision_are_widened(tmp_path):
    backbone = build("deit_tiny_patch16_224", 224, 11, weights=str(HALF))
    assert {tensor.dtype for tensor in backbone.trunk.state_dict().values()} == {torch.float32}
    save_file({name: tensor.float() for name, tensor in weights.read_safetensors(HALF).items()}, tmp_path / "single.safetensors")
    single = build("deit_tiny_patch16_224", 224, 11, weights=str(tmp_path / "single.safetensors"), seed=2)
    assert backbone.trunk_digest == single.trunk_digest
    rows = torch.linspace(-2, 2, 224).expand(1, 3, 224, 224)
    with torch.no_grad():
        features = backbone.tail.eval()(backbone.trunk(rows + rows.mT))
    assert features.shape == (1, 192) and 0.5 < features.std() < 2 and features.abs().max() < 10


def test_a_converter_is_given_single_precision(tmp_path):
    """timm resamples the position embedding of another grid, and rounds to what it was given in."""
    state = {name: value.half() for name, value in backbones._create("vit_tiny_patch16_224", 224).state_dict().items()}
    state["pos_embed"] = torch.randn(1, 1 + 24**2, 192, generator=torch.Generator().manual_seed(0)).half()
    save_file(state, tmp_path / "half.safetensors")
    save_file({name: value.float() for name, value in state.items()}, tmp_path / "single.safetensors")
    half, single = (build("vit_tiny_patch16_224", 224, 12, weights=str(tmp_path / f"{name}.safetensors")) for name in ("half", "single"))
    assert half.trunk_digest == single.trunk_digest


def sharded(folder: Path, n: int = 2) -> dict[str, torch.Tensor]:
    """Write the weights of a small network as shards with an index, and return them."""
    state = build("small_cnn", 8, 0, seed=5).tail.net.state_dict()
    named = {name: f"model-{index % n + 1:05d}-of-{n:05d}.safetensors" for index, name in enumerate(state)}
    folder.mkdir(parents=True, exist_ok=True)
    for shard in set(named.values()):
        save_file({name: value for name, value in state.items() if named[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": named}))
    return state


@pytest.mark.parametrize("given", ["", "model.safetensors.index.json"])
def test_shards_are_read_as_one(tmp_path, given):
    state = sharded(tmp_path / "s")
    found = build("small_cnn", 8, 0, weights=str(tmp_path / "s" / given)).tail.net.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_shards_of_a_hub_repository_come_from_its_cache(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    state = sharded(tmp_path / "s", 3)

    def download(repository: str, name: str, **_options) -> str:
        if not (tmp_path / "s" / name).is_file():
            raise LocalEntryNotFoundError(name)
        return str(tmp_path / "s" / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = build("small_cnn", 8, 0, weights="somebody/small").tail.net.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    (tmp_path / "s" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="pretrained weights somebody/small are not in the cache and HF_HUB_OFFLINE is set"):
        build("small_cnn", 8, 0, weights="somebody/small")


@pytest.mark.parametrize("shard", ["../other.safetensors", "/other.safetensors", "down/other.safetensors", "..", "other.bin"])
def test_an_index_names_only_safetensors_of_its_own_folder(tmp_path, shard):
    (name, value), *_ = sharded(tmp_path / "s").items()
    save_file({name: value}, tmp_path / "other.safetensors")
    (tmp_path / "s" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: shard}}))
    with pytest.raises(UserError, match=re.escape(f"names '{shard}', which is no .safetensors file of its own folder")):
        build("small_cnn", 8, 0, weights=str(tmp_path / "s"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": null}', "\xff"])
def test_a_damaged_index_is_refused(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="is no index of safetensors"):
        build("small_cnn", 8, 0, weights=str(tmp_path))


def test_missing_damaged_and_foreign_shards_are_named(tmp_path):
    sharded(tmp_path)
    first, second = sorted(tmp_path.glob("*.safetensors"))
    whole = second.read_bytes()
    second.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors is not a whole safetensors file"):
        build("small_cnn", 8, 0, weights=str(tmp_path))
    second.write_bytes(first.read_bytes())
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors lacks 'blocks.*copy or download both again"):
        build("small_cnn", 8, 0, weights=str(tmp_path))
    second.unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors: no such file"):
        build("small_cnn", 8, 0, weights=str(tmp_path))


def wrapped(path: Path, prefix: str, heads: tuple[str, ...] = (), **others: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a small network under a prefix, with heads beside it and further networks of zeros, and write them."""
    net = {name: value.clone() for name, value in build("small_cnn", 8, 0, seed=5).tail.net.state_dict().items()}
    state = {prefix + name: value for name, value in net.items()} | {name: torch.ones(3, 2) for name in heads}
    for other in others.values():
        state |= {other + name: torch.zeros_like(value) for name, value in net.items()}
    save_file(state, path)
    return net


WRAPPED = [
    *((prefix, ()) for prefix in ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "module._orig_mod.", "a_name.of_mine.")),
    ("module.backbone.", ("module.head.mlp.0.weight", "module.head.last_layer.weight_g")),
    ("backbone.", ("projector.0.weight", "criterion.weight")),
    ("model.net.", ("model.fc.weight", "epoch.count")),
    ("", ("fc.weight", "head.mlp.0.weight", "queue")),
]


@pytest.mark.parametrize("prefix, heads", WRAPPED)
def test_a_prefix_is_taken_off_and_heads_are_left_out_with_a_line(tmp_path, capsys, prefix, heads):
    net = wrapped(tmp_path / "w.safetensors", prefix, heads)
    loaded = build("small_cnn", 8, 0, weights=str(tmp_path / "w.safetensors")).tail.net.state_dict()
    assert all(torch.equal(value, net[name]) for name, value in loaded.items())
    said = capsys.readouterr().err
    assert said.count("\n") == bool(heads) and all(name.removeprefix(prefix).partition(".")[0] in said for name in heads)


@pytest.mark.parametrize("kept, other", [("teacher.backbone.", "student.backbone."), ("module.encoder_q.", "module.encoder_k.")])
def test_of_two_networks_the_one_meant_for_use_is_read(tmp_path, capsys, kept, other):
    net = wrapped(tmp_path / "w.safetensors", kept, other=other)
    loaded = build("small_cnn", 8, 0, weights=str(tmp_path / "w.safetensors")).tail.net.state_dict()
    assert all(torch.equal(value, net[name]) for name, value in loaded.items())
    assert f"read from '{kept}*'" in capsys.readouterr().err


def test_the_wrappers_of_torch_are_taken_off_within_names(tmp_path):
    net = build("small_cnn", 8, 0, seed=5).tail.net.state_dict()
    save_file({name.replace(".", "._orig_mod.", 1): value for name, value in net.items()}, tmp_path / "w.safetensors")
    loaded = build("small_cnn", 8, 0, weights=str(tmp_path / "w.safetensors")).tail.net.state_dict()
    assert all(torch.equal(value, net[name]) for name, value in loaded.items())


def test_the_error_names_the_prefix_that_was_taken_off(tmp_path):
    wrapped(tmp_path / "w.safetensors", "module.model.")
    with pytest.raises(UserError, match=r"not those of model_name=resnet10t: .* is missing \(without the prefix 'module\.model\.\w*\.?'"):
        build("resnet10t", 64, 0, weights=str(tmp_path / "w.safetensors"))


def test_a_deeper_network_is_no_network_with_heads(tmp_path):
    """A ResNet-34 has all tensors of a ResNet-18, in its shapes, and more blocks."""
    with torch.device("meta"):
        small, deep = (timm.create_model(name, num_classes=0).state_dict() for name in ("resnet18", "resnet34"))
    found = weights_fit.fit({f"module.{name}": value for name, value in deep.items()}, small)
    assert "'layer1.2.conv1.weight'" in found.mismatch and "is not part of the model" in found.mismatch


def test_a_foreign_naming_is_converted_under_a_prefix_too(tmp_path):
    net = backbones._create("vit_tiny_patch16_224", 224)
    state = {f"module.backbone.{name}": value for name, value in net.state_dict().items()}
    assert not weights.fitted(net, {f"encoder.{name}": value for name, value in state.items()}, net.state_dict()).mismatch
