"""Semi-supervised density-based clustering of features (SSDDBC): one cell, a neighbour count k and a density percentile.

Dense points (relative density at or above the percentile) grow into clusters along k-nearest-neighbour edges, never across two different
labels; what is left joins the nearest cluster. Every tie goes to the smaller index or id, so the result is a function of the input. Where
the definition leaves a choice: `densities` are the plain densities (not the relative ones); "other" clusters, into which small ones merge,
are those that are not small; at least one labelled member is needed for "all labelled members share a label"; sums over k values run in
ascending order of value; cross entropy is 0 without labelled points, the silhouette 0 without unlabelled ones.

    result = cluster(features, labels, labelled_mask, k=12, density_percentile=90)
    result.labels, result.core_mask, result.score
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from core.clustering._growth import edges_from_lists, edges_from_rows, grow
from core.clustering._inputs import Inputs, checked, checked_ks, checked_percentiles
from core.clustering._joining import absorb_small, join_sparse, label_counts
from core.clustering.neighbours import DENSE_LIMIT, Neighbours, build
from core.clustering.silhouette import mean_silhouettes

SILHOUETTE_WEIGHT = 3.0


@dataclass(frozen=True)
class Clustering:
    """A partition of N points: labels (N,) int32 from 0, core_mask (N,) bool, densities (N,); score = -cross_entropy + 3 silhouette."""

    labels: np.ndarray
    core_mask: np.ndarray
    densities: np.ndarray
    score: float
    cross_entropy: float
    silhouette: float

    @property
    def n_clusters(self) -> int:
        """How many clusters there are."""
        return int(self.labels.max()) + 1

    @property
    def n_core(self) -> int:
        """How many points are core points."""
        return int(self.core_mask.sum())


@dataclass(frozen=True)
class Partitions:
    """All partitions of one k: labels (P, N) int32 and core_masks (P, N) bool, one per percentile; densities (N,), cross_entropies (P,)."""

    labels: np.ndarray
    core_masks: np.ndarray
    densities: np.ndarray
    cross_entropies: np.ndarray


@njit(cache=True, nogil=True)
def _relative_densities(order: np.ndarray, densities: np.ndarray, mean_density: float, k: int) -> np.ndarray:
    """Return (k + mean density) / (k + mean density of the k neighbours) * density, (N,); neighbours are summed by ascending density."""
    relative = np.empty(len(densities))
    for i in range(len(densities)):
        total = 0.0
        for value in np.sort(densities[order[i, :k]]):
            total += value
        relative[i] = (k + mean_density) / (k + total / k) * densities[i]
    return relative


def _densities(neighbours: Neighbours, k: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return densities (N,), relative densities (N,) and the cutoff distance (steps 1 and 2)."""
    nearest = neighbours.nearest[:, :k].astype(np.float64)
    middle = (nearest[:, (k - 1) // 2] + nearest[:, k // 2]) / 2
    densities = 1.0 / (middle + 1e-8)
    cutoff = math.fsum(nearest.ravel()) / nearest.size
    mean_density = math.fsum(densities) / len(densities)
    return densities, _relative_densities(neighbours.order, densities, mean_density, k), cutoff


def _backbone(
    neighbours: Neighbours, inputs: Inputs, ranked: np.ndarray, densities: np.ndarray, core_mask: np.ndarray, k: int, cutoff: float
) -> np.ndarray:
    """Return the cluster ids (N,) of the core points after steps 3 and 4, -1 elsewhere; `ranked` are all points by descending density."""
    n = len(densities)
    core = np.flatnonzero(core_mask)
    targets, n_edges = np.empty((n, k), np.int32), np.zeros(n, np.int32)
    left = edges_from_lists(neighbours.order, neighbours.nearest, neighbours.complete, core, core_mask, k, cutoff, targets, n_edges)
    for part, matrix, rows, columns in neighbours.blocks(left, core):
        edges_from_rows(left[part], matrix, rows, columns, core, k, cutoff, targets, n_edges)
    return grow(ranked[core_mask[ranked]], targets, n_edges, densities, inputs.codes, inputs.n_codes)


def _cross_entropy(labels: np.ndarray, inputs: Inputs) -> float:
    """Return the mean over labelled points of -log(share of their label among the labelled points of their cluster)."""
    counts = label_counts(labels, inputs.codes, int(labels.max()) + 1, inputs.n_codes)
    if not counts.sum():
        return 0.0
    cluster, label = np.nonzero(counts)
    here = counts[cluster, label]
    return math.fsum(here * -np.log(here / counts.sum(1)[cluster])) / int(counts.sum())


def partitions(neighbours: Neighbours, inputs: Inputs, k: int, percentiles: list[int | float]) -> Partitions:
    """Return the partitions of one k for all density percentiles (steps 1 to 6)."""
    densities, relative, cutoff = _densities(neighbours, k)
    ranked = np.argsort(-densities, kind="stable")
    core_masks = relative >= np.percentile(relative, percentiles)[:, None]
    labels = np.empty((len(percentiles), len(densities)), np.int32)
    for row, core_mask in enumerate(core_masks):
        grown = _backbone(neighbours, inputs, ranked, densities, core_mask, k, cutoff)
        labels[row] = join_sparse(neighbours, absorb_small(neighbours, grown, inputs.codes, inputs.n_codes))
    return Partitions(labels, core_masks, densities, np.array([_cross_entropy(one, inputs) for one in labels]))


def score(cross_entropy: float, silhouette: float) -> float:
    """Return the label-free score of a cell, larger is better (step 7)."""
    return -cross_entropy + SILHOUETTE_WEIGHT * silhouette


def cluster(
    features: np.ndarray,
    labels: np.ndarray,
    labelled_mask: np.ndarray,
    k: int,
    density_percentile: float,
    dense_limit: int = DENSE_LIMIT,
) -> Clustering:
    """Cluster L2-normalised `features` (N, d) with integer `labels` (N,) where `labelled_mask` (N,) bool; labels elsewhere may be anything.

    k: neighbours, 1 <= k < N. density_percentile: 0..100, larger keeps fewer core points. N^2 memory is used up to `dense_limit` points.
    Raises UserError for shapes that differ, features that are not finite, and k or percentile out of range.
    """
    inputs = checked(features, labels, labelled_mask)
    (k,), percentiles = checked_ks([k], len(inputs.features)), checked_percentiles([density_percentile])
    neighbours = build(inputs.features, k, dense_limit)
    found = partitions(neighbours, inputs, k, percentiles)
    silhouette = float(mean_silhouettes(neighbours, np.flatnonzero(inputs.codes < 0), found.labels)[0])
    cross_entropy = float(found.cross_entropies[0])
    return Clustering(found.labels[0], found.core_masks[0], found.densities, score(cross_entropy, silhouette), cross_entropy, silhouette)
