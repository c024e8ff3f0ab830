"""Discovery without any label: digits (pixels) and trees (frozen MobileNetV2 features), against plain k-means and HDBSCAN.

    python -m tests.benchmarks.bench_pure_discovery

All is the accuracy under the best one-to-one naming of clusters. What a method leaves without a cluster counts as wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.cluster import HDBSCAN
from sklearn.datasets import load_digits

from core.clustering import grid, n_classes, pseudo_labels, roles, ssddbc
from core.clustering.kmeans import semi_supervised_kmeans
from core.clustering.matching import best_pairs, contingency
from core.clustering.pseudo_labels import Points, centred
from tests.benchmarks.bench_n_classes import frozen


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (1797, 64) of scikit-learn's digits, centred and of unit length, and their classes."""
    images = load_digits()
    return centred(images.data.astype(np.float32)), images.target


def right(clusters: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of all points that the best naming of the clusters gets right; -1 is no cluster."""
    placed = clusters >= 0
    if not placed.any():
        return 0.0
    counts = contingency(clusters[placed], truth[placed]).counts
    return float(counts[best_pairs(counts)].sum() / len(truth))


def kmeans(features: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return plain k-means clusters (N,)."""
    nobody = np.zeros(len(features), bool)
    return semi_supervised_kmeans(features, np.full(len(features), -1), nobody, k, np.random.default_rng(seed)).labels


def targets(features: np.ndarray, n: int | None, seed: int) -> np.ndarray:
    """Return the pseudo labels (N,) that SSDDBC makes without labels, of `n` categories or as many as it finds."""
    nobody = np.full(len(features), -1)
    found = grid.search(features, nobody, nobody >= 0, range(3, 22, 3), range(40, 100, 10), 1)
    cells = list(found.cells.values())
    eligible = [not cell.degenerate for cell in cells]
    at = roles.choose_cell(list(found.partitions), [cell.score for cell in cells], eligible, nobody, 0)
    k, percentile = list(found.cells)[at]
    chosen = ssddbc.cluster(features, nobody, nobody >= 0, k, percentile)
    points = Points(np.arange(len(features)), np.arange(len(features)).astype(str), features, nobody)
    best = {"k": k, "density_percentile": percentile}
    return pseudo_labels.build(points, chosen, best, None, True, {"seed": seed, "data": ""}, n_classes=n).targets


def answers(features: np.ndarray, truth: np.ndarray, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (method, clusters (N,))."""
    n, count = len(np.unique(truth)), n_classes.estimate(features, np.full(len(features), -1), seed)
    yield f"k-means, the true K = {n} given", kmeans(features, n, seed)
    for least in (10, 20):
        yield f"HDBSCAN, min_cluster_size {least}", HDBSCAN(min_cluster_size=least, copy=True).fit_predict(features)
    yield f"ours: k-means at the estimate ({count.low} to {count.high})", kmeans(features, count.n, seed)
    yield "ours: SSDDBC without labels", targets(features, None, seed)
    yield "ours: SSDDBC, as many as estimated", targets(features, count.n, seed)
    yield "ours: SSDDBC, the true K given", targets(features, n, seed)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=None, help="folder that keeps the frozen features of trees")
    options = parser.parse_args()
    print("| data | method | K' | All | without a cluster |\n|---|---|--:|--:|--:|", flush=True)
    for name, (features, truth) in (("digits", digits()), ("trees", frozen("trees", options.cache))):
        for method, clusters in answers(features, truth, options.seed):
            found = len(set(clusters.tolist()) - {-1})
            print(f"| {name} | {method} | {found} | {right(clusters, truth):.3f} | {(clusters < 0).mean():.0%} |", flush=True)


if __name__ == "__main__":
    main()
