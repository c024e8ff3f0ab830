"""Stage keys: what decides that two stages are the same.

A key holds what is asked (`core.config.asked`), the digest of everything that is read, the code, the libraries, the kind of device and
the number format. It holds no place: an input counts by what it holds, wherever it lies now; and nothing that a clock said. Kinds of
inputs, as `core.config.place` names them:

    data           the digests of data and split, which the stage has read anyway and hands over
    weights        the file that is loaded; of a hub name the file of its revision, the name itself where that is out of reach
    checkpoint     weights, optimiser, random state and facts, without places and times
    pseudo_labels  the arrays and what they were made from
    features       the arrays
    predictor      in a pipeline, what the training gave
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from core import config as configuration
from core import digest
from core.clustering import pseudo_labels
from core.errors import UserError
from core.models import backbones, clip_files, clip_names, clip_weights
from core.stages import inputs
from core.training import state as states

NUMBER_FORMATS = ("precision", "use_amp")
"""Options that the key's environment holds as the number format they come to."""


def of_stage(
    entry_point: str, config: Any, found: dict[str, str], device: torch.device, number_format: str, read: Collection[str] = ()
) -> str:
    """Return the key of a stage: the one place where keys of trainings and clusterings are made.

    Args:
        config: resolved.
        found: digests of what the stage has read: of its data, and of the kinds in `read`.
        device, number_format: where and how it computes.
        read: kinds of inputs whose digests are among `found`, so that their files are not read for it.
    """
    from core.tracking.stage import stage_key

    parameters = {name: value for name, value in configuration.asked(config).items() if name not in NUMBER_FORMATS}
    return stage_key(entry_point, parameters, found | digests(config, read), environment(device, number_format))


def digests(config: Any, read: Collection[str] = ()) -> dict[str, str]:
    """Return the digest of every input that the configuration names and that acts, but for data and the kinds in `read`."""
    found = {}
    for name, kind in configuration.places(config).items():
        if kind in OF and kind not in read:
            value = OF[kind](config, name)
            found |= {name: value} if value else {}
    return found


def weights_file(config: Any, option: str = "weights") -> str:
    """Return the file that a backbone's weights come from, wherever the configuration leads to it; what is given where none is here."""
    given = getattr(config, option)
    try:
        path = backbones.weights_file(getattr(config, "model_name", "") or config.backbone, given, getattr(config, "pretrained", True))
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


def _of_weights(config: Any, option: str) -> str:
    return _of_published(weights_file(config, option))


def _of_published(given: str) -> str:
    """Return the digest of a file of weights, with what the files beside it say of activation and preprocessing."""
    found = of_file_or_name(given)
    said = clip_files.said_beside(Path(given)) if given and Path(given).is_file() else {}
    return digest.of_json([found, said]) if said else found


def of_file_or_name(given: str) -> str:
    """Return the digest of a file, or the name itself where it names none."""
    return digest.of_file_once(given) or given


def _of_checkpoint(config: Any, option: str) -> str:
    given = getattr(config, option)
    return states.content_digest(states.load_checkpoint(inputs.checkpoint_at(given, option))) if given else ""


def _of_pseudo_labels(config: Any, option: str) -> str:
    given = getattr(config, option)
    return pseudo_labels.read(inputs.file_at(given, option, "*.npz")).digest if given else ""


def _of_features(config: Any, option: str) -> str:
    return digest.of_file(inputs.file_at(getattr(config, option), option, "features.safetensors"))


OF: dict[str, Callable[[Any, str], str]] = {
    "weights": _of_weights,
    "checkpoint": _of_checkpoint,
    "pseudo_labels": _of_pseudo_labels,
    "features": _of_features,
}


def environment(device: torch.device, number_format: str) -> dict[str, str]:
    """Return what of this machine is part of a stage key: the kind of device and the number format, not its cores (`core.cores`)."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "number_format": number_format}
