"""Is one way better than another on the same problems? Paired differences, averaged over seeds, with an interval over problems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

Figures = Mapping[tuple[str, int], float]
"""A figure by (problem, seed)."""


@dataclass(frozen=True)
class Difference:
    """How much larger the figures of one way are than those of another on the same problems and seeds.

    Attributes:
        mean: over problems of the mean over their seeds.
        low, high: the 95 % interval of that mean over problems; of the seeds' mean where there is one problem; nan for a single pair.
        by_problem: mean over seeds of each problem.
        n_pairs: how many pairs of problem and seed.
    """

    mean: float
    low: float
    high: float
    by_problem: dict[str, float]
    n_pairs: int

    @property
    def n_problems(self) -> int:
        """How many problems there are."""
        return len(self.by_problem)

    @property
    def better(self) -> int:
        """In how many problems the difference is above 0."""
        return sum(value > 0 for value in self.by_problem.values())


def difference(one: Figures, other: Figures, level: float = 0.95) -> Difference | None:
    """Return the paired difference one - other over the pairs (problem, seed) that both have; None where they share none.

    Seeds of one problem are not independent of each other: its mean over seeds is one observation, and the interval is Student's t
    over problems.
    """
    pairs = sorted(set(one) & set(other))
    if not pairs:
        return None
    gaps: dict[str, list[float]] = {}
    for problem, seed in pairs:
        gaps.setdefault(problem, []).append(one[problem, seed] - other[problem, seed])
    by_problem = {problem: float(np.mean(values)) for problem, values in gaps.items()}
    observations = np.array(list(by_problem.values()) if len(by_problem) > 1 else next(iter(gaps.values())))
    mean = float(observations.mean())
    half = _half(observations, level)
    return Difference(mean, mean - half, mean + half, by_problem, len(pairs))


def _half(values: np.ndarray, level: float) -> float:
    """Return half the width of Student's t interval of the mean of values (n,); nan for one value."""
    if len(values) < 2:
        return float("nan")
    return float(stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
