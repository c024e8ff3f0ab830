"""Whether a classifier is to take another one's place: an interval of its gain that allows for all candidates that were looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from core.evaluation.compare import Interval, paired_bootstrap, paired_swaps

RULES = ("interval", "point")
LEVEL = 0.95
TAIL = 10  # resamples beyond each end of an interval, at least
ROUNDING = 1e-9  # a mean of other recalls in another order differs by less, a right answer more by far more


@dataclass(frozen=True)
class Verdict:
    """The gain, candidate - champion, its interval at the corrected level, and whether it is above the least one by the rule."""

    gain: Interval
    better: bool


def judge(
    labels: np.ndarray,
    champion: np.ndarray,
    candidate: np.ndarray,
    metric: str = "accuracy",
    min_gain: float = 0.0,
    rule: str = "interval",
    looked_at: int = 1,
    n: int = 2000,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Verdict:
    """Say whether the predictions (N,) of a candidate are better than a champion's for labels (N,).

    Args:
        metric: one of core.evaluation.compare.METRICS.
        min_gain: what the gain has to be above.
        rule: interval = the lower end of the gain's interval decides, point = the gain itself.
        looked_at: candidates among which this one was found: each has its share of the interval's error (Bonferroni), so that the
            best of many that are no better seldom wins either.
        n: resamples, more where the level asks for them. seed: of these. groups: (N,) items that stand or fall together.
    """
    level = 1 - (1 - LEVEL) / (looked_at if rule == "interval" else 1)
    gain = gain_interval(labels, champion, candidate, metric, n, seed, level, groups)
    return Verdict(gain, (gain.low if rule == "interval" else gain.value) > min_gain + ROUNDING)


def gain_interval(
    labels: np.ndarray,
    champion: np.ndarray,
    candidate: np.ndarray,
    metric: str,
    n: int,
    seed: int,
    level: float,
    groups: np.ndarray | None = None,
) -> Interval:
    """Return the gain and its interval, at each end the wider one of two: of paired resamples, and of exchanged answers.

    Resamples alone are too sure of themselves where the two seldom disagree: seven answers right more and none less is a matter of
    luck in one of 128 cases, but hardly a resample lacks all seven.
    """
    tail = (1 - level) / 2
    n = max(n, math.ceil(TAIL / tail))
    resampled = paired_bootstrap(labels, champion, candidate, metric, n, seed, level, groups)
    by_chance = np.abs(paired_swaps(labels, champion, candidate, metric, n, seed, groups))
    reach = float(np.quantile(by_chance, 1 - 2 * tail, method="higher"))
    value = resampled.value
    return Interval(value, max(min(resampled.low, value - reach), -1.0), min(max(resampled.high, value + reach), 1.0), level)
