"""All stages of the project: a family is a folder and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Literal, get_args

from core.stages.stage import Stage

Family = Literal["discovery", "longtail", "clip", "posts"]
"""Folders of core/stages; each has `stages.py` with its STAGES and `register.py` with its `held_out`."""
FAMILIES: tuple[str, ...] = get_args(Family)

PACKAGES = (*(f"core.stages.{family}" for family in FAMILIES), "tuning", "core.stages")


def stages() -> Iterator[Stage]:
    """Yield every stage; each module of declarations is imported when its turn comes."""
    for package in PACKAGES:
        yield from importlib.import_module(f"{package}.stages").STAGES


def find(name: str) -> Stage:
    """Return the stage of an entry point; KeyError where there is none."""
    return {stage.name: stage for stage in stages()}[name]
