"""The variables by which torchrun tells a process of its place, checked before anything waits for others that never come."""

from __future__ import annotations

import os

from core.errors import UserError
from core.places import say

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


def settle() -> None:
    """Remove what another launch left in the environment, and say so.

    Raises:
        UserError: WORLD_SIZE promises more processes, which cannot find each other.
    """
    given = {name: os.environ[name] for name in NUMBERS if name in os.environ}
    if not given:
        return
    world, rank = _number("WORLD_SIZE", 1), _number("RANK", 0)
    strange = any(_number(name, 0) is None for name in given) or ("RANK" in given) != ("WORLD_SIZE" in given)
    if strange or world is None or rank is None or rank >= world:
        told = ", ".join(f"{name}={value}" for name, value in given.items())
        say(f"{told} in the environment is no launch of torchrun but left over; this is one single process")
        for name in NUMBERS:
            os.environ.pop(name, None)
        return
    missing = [name for name in ADDRESS if name not in os.environ]
    if world > 1 and missing:
        raise UserError(
            f"WORLD_SIZE = {world}, but {' and '.join(missing)} not set; start all processes with torchrun, or unset RANK and WORLD_SIZE"
        )


def _number(name: str, default: int) -> int | None:
    """Return a variable as a number that is not negative; None where it is none."""
    value = os.environ.get(name, str(default)).strip()
    return int(value) if value.isascii() and value.isdigit() else None
