"""What an SSDDBC cluster stands for: a known class, a novel category, or neither; and which cell of the grid to believe.

Nothing here sees the truth of unlabelled images: only cluster sizes and the labels of labelled images count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIXED = -1
KNOWN_LABELLED, KNOWN_PURITY, KNOWN_SIZE = 0.25, 0.8, 5  # as in SSDDBC's step 4
NOVEL_LABELLED, NOVEL_SHARE = 0.10, 0.02


@dataclass(frozen=True)
class Roles:
    """Roles of a partition's clusters.

    Attributes:
        role: (n_clusters,) class index 0..L-1, novel index L, L+1, ... (largest cluster first), or MIXED.
        n_novel: how many clusters are novel.
        n_recovered: how many different known classes have a cluster.
    """

    role: np.ndarray
    n_novel: int
    n_recovered: int


def of_clusters(clusters: np.ndarray, codes: np.ndarray, n_classes: int) -> Roles:
    """Return the roles of the clusters of a partition.

    Args:
        clusters: (n,) cluster ids 0..C-1.
        codes: (n,) class index 0..L-1 of labelled points, -1 elsewhere.
        n_classes: L.

    A cluster is known class c when it has >= 5 members, > 25 % labelled, >= 80 % of these c; novel when <= 10 % are labelled and it
    has at least max(5, 2 % of all) members; else mixed.
    """
    n_clusters = int(clusters.max()) + 1
    sizes = np.bincount(clusters, minlength=n_clusters)
    counts = np.zeros((n_clusters, n_classes), np.int64)
    labelled = codes >= 0
    np.add.at(counts, (clusters[labelled], codes[labelled]), 1)
    totals, winners = counts.sum(axis=1), counts.max(axis=1)
    known = (sizes >= KNOWN_SIZE) & (totals > KNOWN_LABELLED * sizes) & (winners >= KNOWN_PURITY * totals)
    novel = ~known & (totals <= NOVEL_LABELLED * sizes) & (sizes >= max(KNOWN_SIZE, NOVEL_SHARE * len(clusters)))
    role = np.where(known, counts.argmax(axis=1), MIXED)
    order = [c for c in np.argsort(-sizes, kind="stable") if novel[c]]
    role[order] = n_classes + np.arange(len(order))
    return Roles(role, len(order), len(np.unique(role[known])))


def choose_cell(
    partitions: Sequence[np.ndarray], scores: Sequence[float], eligible: Sequence[bool], codes: np.ndarray, n_classes: int
) -> int:
    """Return the index of the cell that recovers most known classes beside a novel cluster, ties by score, then order.

    The score alone prefers few, large clusters, which merge known classes (spec: 'Old suffers where clusters are too few').
    Cells without a novel cluster, then ineligible ones, are taken only for want of others.
    """

    def rank(cell: int) -> tuple[bool, bool, int, float, int]:
        roles = of_clusters(partitions[cell], codes, n_classes)
        return bool(eligible[cell]), roles.n_novel > 0, roles.n_recovered, scores[cell], -cell

    return max(range(len(partitions)), key=rank)


def split_novel(features: np.ndarray, targets: np.ndarray, sizes: Sequence[int], n_classes: int, kmeans) -> np.ndarray:
    """Return targets with every oversized novel cluster split by k-means into parts of a known class's typical size.

    Args:
        features: (n, d).
        targets: (n,) class index, novel index, or MIXED.
        sizes: members of each class and novel cluster under semi-supervised k-means.
        n_classes: L.
        kmeans: `kmeans(features, n_clusters) -> (n,) labels`.
    """
    typical = float(np.median(sizes[:n_classes]))
    result, fresh = np.where(targets < n_classes, targets, MIXED), n_classes
    for novel in range(n_classes, len(sizes)):
        members = np.flatnonzero(targets == novel)
        parts = max(1, round(max(len(members), sizes[novel]) / max(typical, 1.0)))
        labels = kmeans(features[members], parts) if parts > 1 and len(members) > 5 * parts else np.zeros(len(members), np.int64)
        result[members] = fresh + labels
        fresh += int(labels.max()) + 1 if len(members) else 0
    return result
