"""Limits that the options of every family have: positive, not negative, a share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.errors import UserError


def require(config: Any, positive: Sequence[str] = (), not_negative: Sequence[str] = (), shares: Sequence[str] = ()) -> None:
    """Raise UserError naming the first option outside its limits: above 0, at least 0, within 0..1; NaN is outside all of them."""
    for name in positive:
        if not getattr(config, name) > 0:
            raise UserError(f"{name} = {getattr(config, name)}; it must be larger than 0")
    for name in not_negative:
        if not getattr(config, name) >= 0:
            raise UserError(f"{name} = {getattr(config, name)}; it must be 0 or more")
    for name in shares:
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"{name} = {getattr(config, name)} is outside 0..1; give a share between 0 and 1")
