"""Scores that choose a model without the truth of unlabelled points: held-out labels, and the shape of the clusters."""

from __future__ import annotations

import numpy as np

from core.clustering.matching import as_ids, contingency
from core.errors import UserError
from core.finite import require_finite

_BLOCK_CELLS = 1 << 23


def held_out_accuracy(
    cluster_ids_labelled_train: np.ndarray, labels_labelled_train: np.ndarray, cluster_ids_val: np.ndarray, labels_val: np.ndarray
) -> float:
    """Return the fraction of held-out labelled points whose cluster is named after their class.

    A cluster's name is the most frequent label among the labelled training points in it (ties: the smaller label); a held-out point in a
    cluster without labelled training points is wrong. Several clusters may share a name, so splitting a class costs nothing here,
    while merging two does: pair it with a label-free score. Raises UserError when nothing is held out.
    """
    validation = as_ids(cluster_ids_val)
    truth = as_ids(labels_val)
    if not len(truth):
        raise UserError("no held-out labelled points to select by: set val_fraction above 0, or select by a label-free score")
    if len(validation) != len(truth):
        raise ValueError(f"{len(validation)} held-out cluster ids for {len(truth)} labels")
    table = contingency(cluster_ids_labelled_train, labels_labelled_train)
    if not table.rows.size:
        return 0.0
    names = table.columns[table.counts.argmax(axis=1)]
    position = np.minimum(np.searchsorted(table.rows, validation), len(table.rows) - 1)
    named = table.rows[position] == validation
    return float((named & (names[position] == truth)).mean())


def silhouette(features: np.ndarray, labels: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the mean Euclidean silhouette (-1..1) of the masked points, computed against all points.

    features (N, d), labels (N,) any integers, mask (N,) boolean or None for all. A point alone in its cluster scores 0; with a
    single cluster, or nothing masked, the mean is 0. Memory is bounded: distances are made in blocks of rows. Source: Rousseeuw 1987.
    Raises UserError for features that are not finite.
    """
    require_finite(features, "the features of a silhouette", "mend the model or the file they come from")
    _, cluster, sizes = np.unique(as_ids(labels), return_inverse=True, return_counts=True)
    chosen = np.arange(len(cluster)) if mask is None else np.flatnonzero(np.asarray(mask, dtype=bool))
    if len(sizes) < 2 or not len(chosen):
        return 0.0
    points = np.asarray(features, dtype=np.float64)
    points = points - points.mean(axis=0)
    norms = np.einsum("nd,nd->n", points, points)
    members = np.zeros((len(cluster), len(sizes)))
    members[np.arange(len(cluster)), cluster] = 1.0
    rows = max(1, _BLOCK_CELLS // len(cluster))
    total = 0.0
    for start in range(0, len(chosen), rows):
        block = chosen[start : start + rows]
        squares = norms[block, None] + norms[None, :] - 2.0 * (points[block] @ points.T)
        squares[np.arange(len(block)), block] = 0.0
        sums = np.sqrt(np.maximum(squares, 0.0)) @ members
        total += _silhouettes(sums, cluster[block], sizes).sum()
    return float(total / len(chosen))


def _silhouettes(sums: np.ndarray, own: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the silhouette of each of B points from its (B, K) summed distances to the clusters, its cluster and the (K,) sizes."""
    rows = np.arange(len(own))
    inside = sums[rows, own] / np.maximum(sizes[own] - 1, 1)
    means = sums / sizes
    means[rows, own] = np.inf
    outside = means.min(axis=1)
    width = np.maximum(inside, outside)
    proper = (sizes[own] > 1) & (width > 0)
    return np.where(proper, (outside - inside) / np.where(width > 0, width, 1.0), 0.0)
