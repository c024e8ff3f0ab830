"""Inputs of stages as files on this machine, their digests, and the stage keys made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from core import config as configuration
from core import digest
from core.errors import UserError
from core.plots import curves, figure
from core.stages.materials import environment
from core.training import state as states

# Options that name an input: a stage key holds the digest of what they point to instead of the place where it lies.
PATHS = (
    "data_root",
    "weights",
    "warmup_model_dir",
    "resume_from_ckpt",
    "pseudo_labels_path",
    "ckpt_path",
    "model_path",
    "features_path",
    "previous_pseudo_labels",
)


def checkpoint_at(uri: str, option: str) -> Path:
    """Return the checkpoint file that a file, folder (its newest valid one), run or URI means."""
    from core.tracking.uri import resolve

    path = resolve(uri, option)
    if path.is_file():
        return path
    for folder in (path / "checkpoints", path):
        found = states.newest_valid(folder) if folder.is_dir() else None
        if found:
            return found[0]
    raise UserError(f"{option} = '{uri}' holds no valid checkpoint; give an epoch_NNNN.safetensors or a folder with {states.INDEX}")


def file_at(uri: str, option: str, pattern: str) -> Path:
    """Return the file that a URI means; of a folder, the only one that matches `pattern`."""
    from core.tracking.uri import resolve

    path = resolve(uri, option)
    if path.is_file():
        return path
    found = sorted(path.glob(pattern)) or sorted(path.glob(f"*/{pattern}"))
    if len(found) != 1:
        raise UserError(f"{option} = '{uri}' holds {len(found)} files {pattern}; name the one that is meant")
    return found[0]


def parameters(config: Any) -> dict[str, Any]:
    """Return the canonical parameters of a stage key: what can change the result, without the places of inputs."""
    return {name: value for name, value in configuration.canonical(config, results_only=True).items() if name not in PATHS}


def train_key(config: Any, data_digest: str, split_digest: str, device: torch.device, number_format: str) -> str:
    """Return the stage key of a training."""
    from core.tracking.stage import stage_key

    found = {"data": data_digest, "split": split_digest}
    if config.weights and Path(config.weights).is_file():
        found["weights"] = digest.of_file(config.weights)
    for option in ("warmup_model_dir", "resume_from_ckpt"):
        if getattr(config, option):
            found[option] = digest.of_file(checkpoint_at(getattr(config, option), option))
    if config.pseudo_labels_path:
        found["pseudo_labels"] = digest.of_file(file_at(config.pseudo_labels_path, "pseudo_labels_path", "*.npz"))
    return stage_key("train_superclass", parameters(config), found, environment(device, number_format))


def draw_curves(history: list[list[Any]], path: Path, refreshes: tuple[int, ...] = ()) -> None:
    """Draw a training's history as small multiples into a PNG."""
    series: dict[str, list[tuple[float, float | None]]] = {}
    for epoch, metrics in history:
        for name, value in metrics.items():
            series.setdefault(name, []).append((epoch, value))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.save(curves.curves(series, refreshes=refreshes), path)
