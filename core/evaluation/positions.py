"""Where an image stands in its cluster: in the core, at the border to another, or like no other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CORE, BORDER, OUTLIER = 0, 1, 2  # indices into core.evaluation.answer.POSITIONS
# Of frozen features of 2,500 trees with 20 digits among them, two draws, all 40 digits are found among 82 outliers, of flowers 28 among 98;
# half as lonely again, (1.5, 2.5), 18 among 26. On blobs without any stranger less than 3 % are outliers.
FAR, LONELY = 1.5, 2.0
NEIGHBOURS = 30  # a heap's odd few look alike, too: alone is who has fewer than this
_SHARE = 20  # of a small heap, a 20th of its images
_NORMAL = 1.4826  # the median absolute deviation of a normal distribution, times this, is its standard deviation
_SAMPLE, _MOST = 2000, 5000
_CELLS = 1 << 24
RADIUS_SHARE = 0.95


def cosine_distances(features: np.ndarray, centres: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return (N,) 1 - cosine of each of the unit `features` (N, d) to the centre (K, d) of its cluster (N,)."""
    unit = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    distances = np.empty(len(features))
    for rows in _slices(len(features), features.shape[1]):
        distances[rows] = 1.0 - np.einsum("nd,nd->n", features[rows], unit[clusters[rows]])
    return np.maximum(distances, 0.0)


def radii(distances: np.ndarray, clusters: np.ndarray, n_clusters: int) -> np.ndarray:
    """Return (K,) the cosine distance from its centre within which 95 % of a cluster's images lie; 0 for an empty one."""
    found = np.zeros(n_clusters)
    for cluster in np.unique(clusters):
        found[cluster] = np.quantile(distances[clusters == cluster], RADIUS_SHARE)
    return found


def strangeness(features: np.ndarray, distances: np.ndarray, clusters: np.ndarray, seed: int) -> np.ndarray:
    """Return (N,) how lonely each outlier is, in robust standard deviations; 0 for all others.

    An outlier is far from its centre: more than FAR robust standard deviations above the median distance of its cluster; and lonely: its
    cosine distance to its NEIGHBOURS-th neighbour (at most a 20th of the images) is more than LONELY above that of all images. Deviations
    are the median of those above the median, times 1.4826 (Rousseeuw and Croux 1993, "Alternatives to the median absolute deviation"),
    since distances are skewed.

    Neighbours are looked for among all images, for the _MOST farthest images and a seeded sample of _SAMPLE, so time grows as N.
    """
    n = len(features)
    strange = np.zeros(n)
    far = np.zeros(n)
    for cluster in np.unique(clusters):
        members = clusters == cluster
        far[members] = deviations(distances[members], distances[members])
    candidates = np.flatnonzero(far > FAR)
    if n < 3 or not len(candidates):
        return strange
    candidates = np.sort(candidates[np.argsort(-far[candidates], kind="stable")[:_MOST]])
    k = max(1, min(NEIGHBOURS, n // _SHARE))
    sample = np.arange(n) if n <= _SAMPLE else np.sort(np.random.default_rng([seed, 1]).choice(n, _SAMPLE, replace=False))
    lonely = deviations(_neighbour_distances(features, candidates, k), _neighbour_distances(features, sample, k))
    strange[candidates] = np.where(lonely > LONELY, lonely, 0.0)
    return strange


def deviations(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return by how many robust standard deviations each value exceeds the median of `among`; 0 where those hardly differ."""
    middle = np.median(among)
    above = among[among > middle] - middle
    deviation = _NORMAL * float(np.median(above)) if len(above) else 0.0
    found: np.ndarray = (values - middle) / deviation if deviation > 1e-9 else np.zeros(len(values))
    return found


def positions(margins: np.ndarray, confidences: np.ndarray, strange: np.ndarray) -> np.ndarray:
    """Return (N,) int64 CORE, BORDER or OUTLIER.

    At the border the second category is at least half as likely as the first; outliers are those with any strangeness.
    """
    border = margins < confidences / 2.0
    return np.where(strange > 0, OUTLIER, np.where(border, BORDER, CORE)).astype(np.int64)


def _neighbour_distances(features: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """Return the cosine distance of each of the rows to its k-th neighbour among all others."""
    found = np.empty(len(rows))
    for part in _slices(len(rows), len(features)):
        cosines = features[rows[part]] @ features.T
        cosines[np.arange(len(cosines)), rows[part]] = -2.0
        found[part] = 1.0 - np.partition(cosines, -k, axis=1)[:, -k]
    return found


def _slices(n: int, width: int) -> Iterator[slice]:
    step = max(1, _CELLS // max(width, 1))
    for start in range(0, n, step):
        yield slice(start, start + step)
