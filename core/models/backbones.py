"""Backbones: any timm model, or the project's own small network, split into a frozen trunk and a trained tail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from core.errors import UserError, nearest
from core.models import clip_files, small
from core.models import weights as weight_files
from core.models.split import Network, TrainedTail, split

BATCH_NORM_MODES = ("train", "frozen")


@dataclass
class Backbone:
    """A network split at its first trained stage; `tail(trunk(images))` are its pooled features."""

    name: str
    """timm name, or `small_cnn`."""
    trunk: nn.Module
    """Frozen part: images (B, 3, H, W), normalised by mean and std, to what the tail takes; never trains, never needs gradients."""
    tail: TrainedTail
    """Trained part: the trunk's output to pooled features (B, feature_dim), not normalised."""
    feature_dim: int
    """Width of the pooled feature."""
    mean: tuple[float, float, float]
    """Channel means of the images the network was pretrained on (range 0..1)."""
    std: tuple[float, float, float]
    """Channel standard deviations of those images (range 0..1)."""
    trunk_digest: str
    """sha256 of the trunk's names, shapes and bytes; '' for an empty trunk."""


def build(
    model_name: str,
    image_size: int,
    grad_from_block: int,
    weights: str = "",
    pretrained: bool = True,
    seed: int = 1,
    batch_norm: str = "train",
) -> Backbone:
    """Build a backbone on the CPU in float32; the global random state is left as it was.

    Args:
        model_name: a timm model, with or without its pretraining tag (`vit_base_patch16_224.dino`), or `small_cnn`.
        image_size: side of the square input in pixels; a ViT takes any multiple of its patch.
        grad_from_block: first trained stage, counted from 0: a ViT's block, `blocks.N` of the EfficientNet and MobileNet
            families, `layerN+1` of a ResNet, `stages.N` of a ConvNeXt. 0 trains everything, stem included.
        weights: local .safetensors file, or a hub id `owner/name`; empty takes the model's own pretrained weights.
        pretrained: without `weights`, load the model's own pretrained weights (from the cache or the hub); `small_cnn` has none.
        seed: initialises what no weights are loaded for.
        batch_norm: BatchNorm of the tail: 'train' uses batch statistics, 'frozen' the pretrained running ones.

    Raises:
        UserError: unknown model, bad `grad_from_block`, `image_size` or `batch_norm`, or weights that are absent, unsafe,
            damaged or of another architecture.
    """
    if batch_norm not in BATCH_NORM_MODES:
        raise UserError(f"batch_norm={batch_norm} is unknown; give one of {', '.join(BATCH_NORM_MODES)}")
    net: nn.Module
    if model_name == small.NAME:
        net, mean, std = small.create(seed), small.MEAN, small.STD
        if weights:
            weight_files.load_into(net, weight_files.read_safetensors(weight_files.locate(weights)), model_name, weights)
    else:
        path = weights_file(model_name, weights, pretrained)
        net = found = _timm_network(model_name, image_size, seed, weights, path)
        mean, std = _colours(found, path)
    trunk, tail = split(net, model_name, grad_from_block, freeze_batch_norm=batch_norm == "frozen")
    feature_dim = _feature_dim(trunk, tail, model_name, image_size)
    return Backbone(model_name, trunk, tail, feature_dim, mean, std, weight_files.digest_of(trunk))


def weights_file(model_name: str, weights: str = "", pretrained: bool = True) -> Path | None:
    """Return the file whose weights `build` loads, fetched from the hub where it is not in the cache (network, disk); None for none.

    Raises:
        UserError: the model has none on the hub, or the hub is out of reach.
    """
    if weights:
        return weight_files.locate(weights)
    if model_name == small.NAME or not pretrained:
        return None
    _check_name(model_name)
    return weight_files.hub_file(*_hub_source(model_name))


def _colours(net: Network, path: Path | None) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and std: what the `config.json` of timm or the CLIP's configuration beside the weights says, else the model's own."""
    said: dict[str, Any] = {}
    if path is not None:
        clip = clip_files.beside(path)
        if clip is not None and clip.preprocessing is not None:
            said = vars(clip.preprocessing)
        else:
            about = clip_files.read_json(path.parent / "config.json")
            said = about.get("pretrained_cfg") or {}

    def colour(name: str) -> tuple[float, float, float]:
        red, green, blue = said.get(name) or net.pretrained_cfg[name]
        return red, green, blue

    return colour("mean"), colour("std")


def _timm_network(model_name: str, image_size: int, seed: int, weights: str, path: Path | None) -> Network:
    """Return the timm network without a classifier, with its weights; a bad file is refused before the network is built."""
    _check_name(model_name)
    state = {} if path is None else weight_files.read_safetensors(path)
    source = weights or str(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _create(model_name, image_size, initialise=not state)
    if state:
        weight_files.load_into(net, state, model_name, source)
    return net


def _check_name(model_name: str) -> None:
    """Raise UserError for a name or a pretraining tag that timm does not know."""
    import timm

    architecture, _, tag = model_name.partition(".")
    if not timm.is_model(architecture):
        raise UserError(f"model_name={model_name} is not a timm model{nearest(architecture, [small.NAME, *timm.list_models()])}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and model_name not in tagged:
        raise UserError(f"model_name={model_name}: {architecture} has no weights tagged '{tag}'{nearest(model_name, tagged)}")


def _hub_source(model_name: str) -> tuple[str, str]:
    """Return (repository, file name) on the hub of the model's own pretrained weights."""
    import timm

    config = timm.get_pretrained_cfg(model_name)
    if config is None or not config.hf_hub_id:
        raise UserError(f"model_name={model_name} has no pretrained weights on the hub; give weights=<local .safetensors file>")
    repository = config.hf_hub_id
    if repository.endswith("/"):
        repository += ".".join(filter(None, (config.architecture, config.tag)))
    stem = Path(config.hf_hub_filename or "model.safetensors").name
    if stem.endswith(".safetensors"):
        return repository, stem
    return repository, "open_clip_model.safetensors" if stem.startswith("open_clip") else "model.safetensors"


def _create(model_name: str, image_size: int, initialise: bool = True) -> Network:
    """Create the network able to take images of `image_size`; without `initialise` its weights are about to be replaced."""
    import timm

    config = timm.get_pretrained_cfg(model_name)
    choices: list[dict] = [{}]
    if config is not None and config.fixed_input_size and tuple(config.input_size[1:]) != (image_size, image_size):
        # ViTs resample their position embedding as they run and keep the weights' own shape; others are built for the size.
        choices = [{"dynamic_img_size": True}, {"img_size": image_size}]
    if not initialise and model_name.startswith("vit_"):
        # Three of the four seconds that building a ViT-B takes go into random weights.
        choices = [{**choices[0], "weight_init": "skip"}, *choices]
    for index, options in enumerate(choices):
        try:
            return cast(Network, timm.create_model(model_name, pretrained=False, num_classes=0, **options))
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            if index == len(choices) - 1:
                raise UserError(f"model_name={model_name} cannot be built for image_size={image_size}: {error}") from error
    raise AssertionError("unreachable")


def _feature_dim(trunk: nn.Module, tail: nn.Module, model_name: str, image_size: int) -> int:
    """Return the width of the pooled feature by one evaluation-mode pass, which also proves that the image size fits."""
    training = tail.training
    try:
        with torch.no_grad():
            features = tail.eval()(trunk(torch.zeros(1, 3, image_size, image_size)))
    except (AssertionError, RuntimeError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(f"model_name={model_name} does not take image_size={image_size}: {line}") from error
    finally:
        tail.train(training)
    if features.ndim != 2:
        raise UserError(f"model_name={model_name} gives features of shape {tuple(features.shape)}; a backbone needs one vector per image")
    return features.shape[1]
