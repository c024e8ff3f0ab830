"""Euclidean silhouettes of many partitions of the same points at once.

Sums of distances to every cluster are taken for LANES points together, one row of a small array per cluster: the cost does not grow with
the number of clusters, as it does for distances times one-hot labels. Each sum adds points in ascending order in float64, so a partition's
silhouette does not depend on what else is in the batch.
"""

from __future__ import annotations

import numpy as np
from joblib import Parallel, delayed
from numba import njit

from core.clustering.neighbours import Neighbours

# fewer lanes than this are not turned into vector instructions
LANES = 64


@njit(cache=True, nogil=True)
def _sum_by_cluster(columns: np.ndarray, labels: np.ndarray, sums: np.ndarray) -> None:
    """Add row j of `columns` (N, LANES) to row labels[j] of `sums` (C, LANES)."""
    for j in range(len(labels)):
        c = labels[j]
        for lane in range(LANES):
            sums[c, lane] += columns[j, lane]


@njit(cache=True, nogil=True)
def _silhouettes(
    points: np.ndarray, matrix: np.ndarray, positions: np.ndarray, partitions: np.ndarray, sizes: np.ndarray, result: np.ndarray
) -> None:
    """Fill `result` (P, len(points)) with the silhouettes of `points` under `partitions` (P, N), cluster sizes `sizes` (P, C)."""
    n = partitions.shape[1]
    columns = np.zeros((n, LANES), np.float32)
    sums = np.empty((sizes.shape[1], LANES))
    for start in range(0, len(points), LANES):
        lanes = min(LANES, len(points) - start)
        for lane in range(lanes):
            row = matrix[positions[start + lane]]
            for j in range(n):
                columns[j, lane] = row[j]
        for p in range(len(partitions)):
            sums[:] = 0.0
            _sum_by_cluster(columns, partitions[p], sums)
            for lane in range(lanes):
                own = partitions[p, points[start + lane]]
                others = np.inf
                for c in range(sizes.shape[1]):
                    if c != own and sizes[p, c] > 0:
                        others = min(others, sums[c, lane] / sizes[p, c])
                inside = sums[own, lane] / max(sizes[p, own] - 1, 1)
                alone = sizes[p, own] == 1 or others == np.inf
                result[p, start + lane] = 0.0 if alone or max(inside, others) == 0.0 else (others - inside) / max(inside, others)


def _some(neighbours: Neighbours, points: np.ndarray, partitions: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the silhouettes (P, len(points)) of `points`."""
    result = np.zeros((len(partitions), len(points)))
    for part, matrix, positions, _ in neighbours.blocks(points, np.arange(partitions.shape[1])):
        block = np.zeros((len(partitions), len(positions)))
        _silhouettes(points[part], matrix, positions, partitions, sizes, block)
        result[:, part] = block
    return result


def mean_silhouettes(neighbours: Neighbours, points: np.ndarray, partitions: np.ndarray, max_workers: int = 1) -> np.ndarray:
    """Return the mean silhouette (P,) of `points` (indices), each against all N points, under every partition (P, N) of ids from 0.

    0 for a point alone in its cluster, for a point whose distances are all 0, for a single cluster, and when there are no points.
    """
    if not len(points):
        return np.zeros(len(partitions))
    partitions = np.ascontiguousarray(partitions, np.int32)
    width = int(partitions.max()) + 1
    sizes = np.stack([np.bincount(labels, minlength=width) for labels in partitions])
    pieces = np.array_split(points, max(1, min(4 * max_workers, len(points) // LANES))) if max_workers > 1 else [points]
    parts = Parallel(n_jobs=max_workers, prefer="threads")(delayed(_some)(neighbours, piece, partitions, sizes) for piece in pieces)
    means: np.ndarray = np.ascontiguousarray(np.concatenate(parts, axis=1)).mean(axis=1)
    return means
