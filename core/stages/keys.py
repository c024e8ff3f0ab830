"""Stage keys: what decides that two stages are the same.

A key holds what is asked (`core.config.asked`), the digest of everything that is read, the code, the libraries, the kind of device and
the number format. It holds no place: an input counts by what it holds, wherever it lies now; and nothing that a clock said. Kinds of
digests, as the fields of the configurations name them:

    data           of data and split, which the stage has read anyway and hands over
    weights        the file that is loaded; of a hub name the file of its revision, the name itself where that is out of reach
    tower          the same of a CLIP tower; `towers` are those of both towers
    text_encoder   all files of a sentence encoder, which stand for its name; any other tower's name stands for itself
    checkpoint     weights, optimiser, random state and facts, without places and times
    pseudo_labels  the arrays and what they were made from
    features       the arrays
    predictor      in a pipeline, what the training gave
    number_format  what `precision` or `use_amp` comes to on the device
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path

import torch

from core import config as configuration
from core import digest
from core.clustering import pseudo_labels
from core.config import Dataclass
from core.errors import UserError
from core.models import backbones, clip_files, clip_names, clip_weights, sentence_files, sentence_names
from core.models import weights as weight_files
from core.stages import inputs
from core.training import state as states


def of_stage(
    entry_point: str, config: Dataclass, found: dict[str, str], device: torch.device | None = None, number_format: str = ""
) -> str:
    """Return the key of a stage: the one place where keys are made.

    Args:
        config: resolved.
        found: digests of what the stage has read, by kind or by option; the inputs that it lacks are read for it.
        device, number_format: where and how it computes; None where only what other stages have made counts.

    Raises:
        LookupError: a kind of input that only the stage can know is not among `found`.
    """
    from core.tracking.stage import stage_key

    found = found | _text_encoder(config) | digests(config, found)
    where = {} if device is None else environment(device, number_format)
    return stage_key(entry_point, configuration.asked(config, {*found, *where}), found, where)


def digests(config: Dataclass, found: Collection[str] = ()) -> dict[str, str]:
    """Return the digest of every input that the configuration names and that acts, but for options and kinds that were `found`."""
    made = {}
    for name, kind in configuration.places(config).items():
        if name in found or kind in found:
            continue
        if kind in OF:
            made[name] = OF[kind](config, name)
        elif getattr(config, name):
            raise LookupError(f"the stage hands over no digest of {name} ({kind})")
    return {name: value for name, value in made.items() if value}


def _text_encoder(config: Dataclass) -> dict[str, str]:
    """Return the digest of the files of a sentence encoder that reads the texts, which stands for its name; {} without one."""
    for f in dataclasses.fields(config):
        if (
            f.metadata["digest"] == "text_encoder"
            and f.metadata["acts"](config)
            and sentence_names.is_named(name := getattr(config, f.name))
        ):
            return {"text_encoder": sentence_files.digest_of(name)}
    return {}


def weights_file(config: Dataclass, option: str = "weights") -> str:
    """Return the file that a backbone's weights come from, wherever the configuration leads to it; what is given where none is here."""
    given = getattr(config, option)
    try:
        model = getattr(config, "model_name", "") or getattr(config, "backbone", "")
        path = backbones.weights_file(model, given, bool(model) and getattr(config, "pretrained", True))
    except UserError:  # out of reach: whoever loads them says so
        return given
    return str(path) if path is not None and path.is_file() else given


def of_tower(name: str, tag: str, given: str, side: str, image_size: int, context_length: int) -> str:
    """Return the digest of the file that a CLIP tower's weights come from, the given name where it is out of reach, '' for none.

    Args:
        name, tag, given: encoder, tag of published weights, and file or hub name, as the options of that side are given.
        side: image or text.
    """
    try:
        tower = clip_names.image_tower(name, tag, image_size) if side == "image" else clip_names.text_tower(name, tag, context_length)
        if tower.kind == "timm":
            path = backbones.weights_file(tower.model, given, bool(tower.tag))
        else:
            path = clip_weights.find(tower, given, side)
    except UserError:  # out of reach: whoever loads them says so
        path = None
    return _of_published(given if path is None else str(path))


def of_weights(config: Dataclass, option: str = "weights") -> str:
    """Return the digest of the file that a backbone's weights come from, the given name where it is out of reach, '' for none."""
    return _of_published(weights_file(config, option))


def _of_tower(config: Dataclass, option: str) -> str:
    side, said = option.split("_")[0], configuration.canonical(config)
    name = said[f"{side}_encoder_name"] or said["model_name"]
    whole = said.get("weights", "")
    given = said[option] or (clip_names.whole_clip(name, whole) if side == "text" else whole)
    tag = said[f"{side}_pretrained"]
    return of_tower(name, tag, given, side, said["img_size"] if "img_size" in said else said["image_size"], said["context_length"])


def _of_published(given: str) -> str:
    """Return the digest of a file of weights, with what the files beside it say of activation and preprocessing."""
    found = of_file_or_name(given)
    said = clip_files.said_beside(Path(given)) if given and Path(given).is_file() else {}
    return digest.of_json([found, said]) if said else found


def of_file_or_name(given: str) -> str:
    """Return the digest of a file, of an index of weights with its shards, or the name itself where it names none."""
    first, *shards = map(digest.of_file_once, weight_files.files_of(Path(given)))
    return digest.of_json([first, *shards]) if shards else first or given


def _of_checkpoint(config: Dataclass, option: str) -> str:
    given = getattr(config, option)
    return states.content_digest(states.load_checkpoint(inputs.checkpoint_at(given, option))) if given else ""


def _of_pseudo_labels(config: Dataclass, option: str) -> str:
    given = getattr(config, option)
    return pseudo_labels.read(inputs.file_at(given, option, "*.npz")).digest if given else ""


def _of_features(config: Dataclass, option: str) -> str:
    given = getattr(config, option)
    return digest.of_file(inputs.file_at(given, option, "features.safetensors")) if given else ""


OF: dict[str, Callable[[Dataclass, str], str]] = {
    "weights": of_weights,
    "tower": _of_tower,
    "towers": lambda config, option: "",  # the options of each side hold them
    "checkpoint": _of_checkpoint,
    "pseudo_labels": _of_pseudo_labels,
    "features": _of_features,
}


def environment(device: torch.device, number_format: str) -> dict[str, str]:
    """Return what of this machine is part of a stage key: the kind of device and the number format, not its cores (`core.cores`)."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "number_format": number_format}
