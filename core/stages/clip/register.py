"""What the models of trainings with class sentences are compared on."""

from __future__ import annotations

from typing import Any

from core.stages import held_out as held
from core.stages.clip import data as clip_data
from core.stages.clip import folds, materials
from core.stages.clip.config import ClipData
from core.stages.held_out import HeldOut


def held_out(options: dict[str, Any], part: str) -> HeldOut:
    """Return the validation or test images that these data options name; those of one photograph stand or fall together."""
    config = ClipData(**options)
    pool = clip_data.load(config)
    rows = folds.parts(pool, config)
    return held.of_part(materials.parted(pool, rows), part, None if pool.groups is None else pool.groups[rows[part]])
