"""Semi-supervised k-means: labelled points stay in their class's cluster, k-means++ seeds the rest.

Source: Vaze et al. 2022, "Generalized Category Discovery", section 3.2; seeding by Arthur and Vassilvitskii 2007, "k-means++".
Without labelled points it is plain k-means (Lloyd 1982).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from core.errors import UserError
from core.progress import bar

_BLOCK_CELLS = 1 << 21


@dataclass(frozen=True)
class KMeansResult:
    """`labels` (N,) int64 in 0..K-1, `centres` (K, d) float32 means of the clusters, `inertia` the sum of squared distances to them.

    `iterations` is how many rounds the winning initialisation took.
    """

    labels: np.ndarray
    centres: np.ndarray
    inertia: float
    iterations: int


@dataclass(frozen=True)
class _Problem:
    """The points (N, d) float32 around their mean, with free ones (F,) to be placed and clamped ones kept in `clamped_labels` (N,)."""

    points: np.ndarray
    free: np.ndarray
    free_points: np.ndarray
    clamped_labels: np.ndarray
    class_centres: np.ndarray
    n_clusters: int


def semi_supervised_kmeans(
    features: np.ndarray,
    labels: np.ndarray,
    labelled_mask: np.ndarray,
    n_clusters: int,
    rng: np.random.Generator,
    n_init: int = 10,
    max_iter: int = 100,
    tol: float = 1e-4,
) -> KMeansResult:
    """Cluster features (N, d) into `n_clusters`, the points of labelled_mask (N,) held in the cluster of their class.

    The L classes among labels[labelled_mask], ascending, own clusters 0..L-1; labels outside the mask are ignored. Of `n_init`
    initialisations the one with the smallest inertia is returned (ties: the first); each stops when no point moves, when the
    squared moves of the centres add up to at most `tol` times the mean variance of a feature, or after `max_iter` rounds. A cluster that
    runs empty takes the free point farthest from its centre. Deterministic in `rng`. Raises UserError when `n_clusters` cannot hold the
    classes or exceeds what the points can fill.
    """
    origin = np.asarray(features, dtype=np.float32).mean(axis=0, dtype=np.float64).astype(np.float32)
    problem = _pose(np.asarray(features, dtype=np.float32) - origin, labels, labelled_mask, n_clusters)
    threshold = tol * float(np.var(problem.points, axis=0, dtype=np.float64).mean())
    best: KMeansResult | None = None
    for seeds in _seed(problem, rng, n_init):
        result = _lloyd(problem, seeds, max_iter, threshold)
        # Runs that end in the same partition under other cluster ids differ by rounding only: that is a tie, and the first one stays.
        if best is None or result.inertia < best.inertia * (1 - 1e-9):
            best = result
        if not len(problem.free):
            break
    return KMeansResult(best.labels, best.centres + origin, best.inertia, best.iterations)


def assign(features: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the index (N,) int64 of the nearest of `centres` (K, d) for each of `features` (N, d); ties to the smaller index."""
    centres = np.asarray(centres, dtype=np.float32)
    origin = centres.mean(axis=0)
    return _nearest(np.asarray(features, dtype=np.float32), centres, origin)[0]


def estimate_n_clusters(
    features: np.ndarray, labels: np.ndarray, labelled_mask: np.ndarray, k_min: int, k_max: int, rng: np.random.Generator, n_init: int = 3
) -> int:
    raise NotImplementedError
