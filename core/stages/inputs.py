"""Inputs of stages as files on this machine, and the picture of a training's curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.errors import UserError
from core.plots import curves, figure
from core.training import state as states


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


def draw_curves(history: list[list[Any]], path: Path, refreshes: tuple[int, ...] = ()) -> None:
    """Draw a training's history as small multiples into a PNG."""
    series: dict[str, list[tuple[float, float | None]]] = {}
    for epoch, metrics in history:
        for name, value in metrics.items():
            series.setdefault(name, []).append((epoch, value))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.save(curves.curves(series, refreshes=refreshes), path)
