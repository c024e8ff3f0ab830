"""How often a classifier is wrong in groups of its items, with intervals that are honest about small groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest


@dataclass(frozen=True)
class ErrorRate:
    """Errors of one group: `errors` of `n` items, their share, and its Wilson score interval `low`..`high` (None for n = 0)."""

    group: str
    n: int
    errors: int
    rate: float | None
    low: float | None
    high: float | None


def error_rate(group: str, errors: int, n: int, level: float = 0.95) -> ErrorRate:
    """Return the error rate of a group with its Wilson score interval (Wilson 1927), which stays inside 0..1 and is never a point.

    Raises ValueError unless 0 <= errors <= n and 0 < level < 1.
    """
    if not 0 <= errors <= n or not 0 < level < 1:
        raise ValueError(f"{errors} errors of {n} items at level {level} is no rate")
    if not n:
        return ErrorRate(group, 0, 0, None, None, None)
    interval = binomtest(errors, n).proportion_ci(level, method="wilson")
    return ErrorRate(group, n, errors, errors / n, float(interval.low), float(interval.high))


def by_group(wrong: np.ndarray, groups: Sequence[str], order: Sequence[str] = (), level: float = 0.95) -> list[ErrorRate]:
    """Return the error rate of each group: those of `order` first, also when empty, others by size.

    wrong: (N,) boolean. groups: N names. Raises ValueError when the two differ in length.
    """
    wrong, names = np.asarray(wrong, bool), np.asarray(groups, object)
    if len(wrong) != len(names):
        raise ValueError(f"{len(wrong)} items and {len(names)} groups")
    sizes = {name: int((names == name).sum()) for name in dict.fromkeys(groups)}
    others = sorted(sizes.keys() - set(order), key=lambda name: (-sizes[name], name))
    return [error_rate(name, int(wrong[names == name].sum()), sizes.get(name, 0), level) for name in (*order, *others)]
