"""How many classes there are among points of which some are labelled, or none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.clustering.kmeans import estimate_n_clusters


@dataclass(frozen=True)
class Count:
    """A number of classes, and how sure it is.

    Attributes:
        n: the estimate, known and novel classes together.
        low, high: the interval that it is given with.
        curve: (K, score) of every number that was tried, ascending K.
    """

    n: int
    low: int
    high: int
    curve: tuple[tuple[int, float], ...] = ()


def estimate(features: np.ndarray, labels: np.ndarray, seed: int) -> Count:
    """Return the estimated number of classes of L2-normalised features (N, d); labels (N,) are -1 where nobody gave one."""
    labelled = labels >= 0
    known = len(np.unique(labels[labelled]))
    n = estimate_n_clusters(features, labels, labelled, known, 3 * known + 4, np.random.default_rng(seed)) if known else 1
    return Count(n, n, n)


def wanted(n: int, n_known: int, over_cluster: float, n_points: int) -> int:
    """Return how many clusters to make of `n_points` points for `n` classes."""
    return max(n_known, 1, min(int(n * over_cluster + 0.5), n_points))
