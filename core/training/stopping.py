"""When a training has nothing more to gain."""

from __future__ import annotations

from collections.abc import Sequence


def stale_epochs(values: Sequence[float], min_delta: float = 0.0) -> int:
    """Return how many epochs ago the last improvement by more than `min_delta` was; larger is better, the first value is one."""
    best, at = -float("inf"), len(values) - 1
    for place, value in enumerate(values):
        if value > best + min_delta:
            best, at = value, place
    return len(values) - 1 - at
