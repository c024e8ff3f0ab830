"""Search of the SSDDBC grid: every neighbour count k with every density percentile, distances and neighbours shared by all cells.

found = search(features, labels, labelled_mask, ks=range(3, 22), density_percentiles=range(40, 101, 5))
found.best.k, found.best.density_percentile, found.best.labels, found.cells[(3, 40)].score
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed

from core import cores
from core.clustering import ssddbc
from core.clustering._inputs import checked, checked_ks, checked_percentiles
from core.clustering.neighbours import DENSE_LIMIT, build
from core.clustering.silhouette import mean_silhouettes
from core.progress import bar


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: score (larger is better) = -cross_entropy + 3 silhouette; numbers of clusters, core points and points."""

    score: float
    cross_entropy: float
    silhouette: float
    n_clusters: int
    n_core: int
    n_points: int

    @property
    def degenerate(self) -> bool:
        """Whether the partition says nothing: one cluster, or all singletons."""
        return self.n_clusters in (1, self.n_points)


@dataclass(frozen=True)
class Best(ssddbc.Clustering):
    """The chosen cell's partition, with its k and density percentile."""

    k: int
    density_percentile: int | float


@dataclass(frozen=True)
class Grid:
    """`cells` keyed (k, density_percentile), ascending, the full result of the `best` one, `partitions` (cells, N) in that order."""

    cells: dict[tuple[int, int | float], Cell]
    best: Best
    partitions: np.ndarray


def _choice(cells: dict[tuple[int, int | float], Cell]) -> tuple[int, int | float]:
    """Return the key of the highest score, ties to smaller k, then percentile; degenerate cells and percentile 100 for want of others."""
    return min(cells, key=lambda key: (cells[key].degenerate, key[1] == 100, -cells[key].score, key))


def _cell(found: ssddbc.Partitions, row: int, silhouette: float) -> Cell:
    entropy, labels = float(found.cross_entropies[row]), found.labels[row]
    n_clusters, n_core = int(labels.max()) + 1, int(found.core_masks[row].sum())
    return Cell(ssddbc.score(entropy, silhouette), entropy, silhouette, n_clusters, n_core, len(labels))


def search(
    features: np.ndarray,
    labels: np.ndarray,
    labelled_mask: np.ndarray,
    ks: Iterable[int],
    density_percentiles: Iterable[float],
    max_workers: int | None = None,
    dense_limit: int = DENSE_LIMIT,
) -> Grid:
    """Cluster `features` (N, d) in every cell and choose one by the label-free score; arguments as for `ssddbc.cluster`.

    max_workers: how many k are worked on at a time (default: half the usable cores), in threads or where joblib's active backend puts them;
    the result does not depend on it. Raises UserError as `ssddbc.cluster` does, and for an empty list of k or percentiles.
    """
    inputs = checked(features, labels, labelled_mask)
    ks, percentiles = checked_ks(ks, len(inputs.features)), checked_percentiles(density_percentiles)
    workers = max(1, max_workers or cores.usable() // 2)
    neighbours = build(inputs.features, ks[-1], dense_limit)
    jobs = (delayed(ssddbc.partitions)(neighbours, inputs, k, percentiles) for k in bar(ks, "clustering"))
    found = Parallel(n_jobs=workers, prefer="threads")(jobs)
    partitions = np.concatenate([one.labels for one in found])
    silhouettes = mean_silhouettes(neighbours, np.flatnonzero(inputs.codes < 0), partitions, workers)
    rows = [(a, b) for a in range(len(ks)) for b in range(len(percentiles))]
    cells = {(ks[a], percentiles[b]): _cell(found[a], b, float(value)) for (a, b), value in zip(rows, silhouettes, strict=True)}
    k, percentile = _choice(cells)
    chosen, row, cell = found[ks.index(k)], percentiles.index(percentile), cells[k, percentile]
    arrays = chosen.labels[row], chosen.core_masks[row], chosen.densities
    best = Best(*arrays, cell.score, cell.cross_entropy, cell.silhouette, k, percentile)
    return Grid(cells, best, partitions)
