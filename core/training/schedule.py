"""Schedules as pure functions of the global epoch: nothing to save, nothing to resume wrongly."""

from __future__ import annotations

import math


def linear(epoch: int, first: int, total_epochs: int, start: float, end: float) -> float:
    """Return a value that goes from `start` in epoch `first` (0-based) straight to `end` in the last one; before, and alone, `start`."""
    last = total_epochs - 1
    return start + (end - start) * min(max((epoch - first) / (last - first), 0.0), 1.0) if last > first else start


def cosine(epoch: int, total_epochs: int, start: float, end_factor: float = 1e-3) -> float:
    """Return the learning rate of `epoch` (0-based): cosine from `start` to `start * end_factor` over the global epochs."""
    end = start * end_factor
    progress = min(max(epoch / total_epochs, 0.0), 1.0)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
