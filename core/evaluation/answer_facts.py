"""What can be said of a clustering without any truth: its shape, how much of it comes again, and what held-out labels tell."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from sklearn.metrics import adjusted_rand_score

from core.clustering.kmeans import assign, confidences, semi_supervised_kmeans
from core.evaluation.places import sampled
from core.evaluation.selection import silhouette

_FITS = 4
_ROUNDS = 50


def sampled_silhouette(features: np.ndarray, clusters: np.ndarray, seed: int) -> float | None:
    """Return the mean Euclidean silhouette of at most 5,000 images among each other; None where there are fewer than two clusters."""
    rows = sampled(len(features), seed)
    return silhouette(features[rows], clusters[rows]) if len(np.unique(clusters[rows])) > 1 else None


def stability(points: np.ndarray, n_clusters: int, seed: int) -> float | None:
    """Return how alike plain k-means clusters of bootstraps are, in -1..1; None where there are too few images to ask.

    The mean adjusted Rand index of each two of four fits, each on another bootstrap of at most 5,000 images and all assigned to its
    centres (Ben-Hur, Elisseeff and Guyon 2002, "A stability based method for discovering structure in clustered data", with bootstraps
    for subsamples). No label takes part.

    Args:
        points: (N, q) what `places.reduced` returns: the main directions suffice, at a fraction of the cost.
    """
    if n_clusters < 2 or len(points) < 4 * n_clusters:
        return None
    points = points[sampled(len(points), seed)]
    nobody, nothing = np.zeros(len(points), bool), np.zeros(len(points), np.int64)
    found = []
    for fit in range(_FITS):
        rng = np.random.default_rng([seed, 4, fit])
        drawn = points[rng.integers(0, len(points), len(points))]
        found.append(assign(points, semi_supervised_kmeans(drawn, nothing, nobody, n_clusters, rng, 1, _ROUNDS).centres))
    return float(np.mean([adjusted_rand_score(one, other) for one, other in combinations(found, 2)]))


def held_out_shares(
    features: np.ndarray, centres: np.ndarray, labels: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the labels (n,) and shares (n, K) of held-out images whose class has a cluster: what `core.plots.reliability` draws.

    None where there is none, or one cluster only. labels (N,): as `confidence.fit_temperature` takes them.
    """
    kept = labels >= 0
    if not kept.any() or len(centres) < 2:
        return None
    return labels[kept], confidences(features[kept], centres, temperature)


def expected_purity(clusters: np.ndarray, labels: np.ndarray, n_known: int, n_clusters: int) -> list[float | None]:
    """Return for each cluster which share of the held-out images in it are of its class; None for novel ones, and where there are none.

    Held-out images are of labelled classes: what a cluster holds of unlabelled classes, they cannot tell.

    Args:
        clusters, labels: (n,) of the held-out images: where they are, and the cluster of their class (negative = it has none).
    """
    right = np.bincount(clusters[clusters == labels], minlength=n_clusters)
    everyone = np.bincount(clusters, minlength=n_clusters)
    return [float(right[c] / everyone[c]) if c < n_known and everyone[c] else None for c in range(n_clusters)]
