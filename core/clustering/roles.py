"""What an SSDDBC cluster stands for: a known class, a novel category, or neither; and which cell of the grid to believe.

Nothing here sees the truth of unlabelled images: only cluster sizes and the labels of labelled images count. No threshold is a number of
images or a share of all of them: what a known class looks like follows from the labelled share that the split gives it and from the
sizes that known classes have, so that the answer is the same for 2 classes and for 200, for every image labelled and for one in fifty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

MIXED = -1
LEAST = 5  # members of any cluster that stands for something, as in SSDDBC's step 4
PURITY = 0.8  # of the labels in a known class's cluster, as there
HOME = 0.5  # of a class's labels lie in the cluster that is its home
KNOWN_SHARE, NOVEL_SHARE = 1 / 3, 1 / 10  # of the expected labelled share: at least, and at most
STRAY = 1  # labelled point does not make a novel cluster another
FIXED_SHARE = 1 / 10  # instead of KNOWN_SHARE where each class got the same number of labels, whatever its size
SURE, HARDLY = 0.05, 0.01  # of chance: how improbable a known class's missing labels, and too few of them, have to be
SMALLEST, SCRAPS = 0.02, 0.15  # of a known class's typical size: least size of a novel cluster, and how far scraps can raise it
UNDILUTED = 0.7  # of the expected labelled share: what a cluster that is one known class keeps
SIZES = 1.5  # by how much a novel category may be larger or smaller than known classes are
STEPS = 20  # cells are told apart by whole twentieths of the points that are well placed, then by score


@dataclass(frozen=True)
class Roles:
    """Roles of a partition's clusters.

    Attributes:
        role: (n_clusters,) class index 0..L-1, novel index L, L+1, ... (largest cluster first), or MIXED: neither, or too few to say.
        n_novel: how many clusters are novel.
        n_recovered: how many different known classes have a cluster.
        placed: share 0..1 of the points whose cluster looks like one whole class: a known one that is neither split nor diluted with
            unlabelled strangers, or a novel one of the size that known classes have.
        clear: whether a novel cluster is no scrap: at least a fifth of the smallest known class's cluster.
    """

    role: np.ndarray
    n_novel: int
    n_recovered: int
    placed: float
    clear: bool


@dataclass(frozen=True)
class _Counts:
    """sizes (C,) of clusters; by_class (C, L) their labelled points; totals, winners (C,) all and the most frequent class's of these.

    recall (C,): the part of the winner's labels that lies here; homes (C,): how many classes have at least half of theirs here;
    share: the labelled share that a known class is expected to have; floor: the least of it that a known cluster may have.
    """

    sizes: np.ndarray
    by_class: np.ndarray
    totals: np.ndarray
    winners: np.ndarray
    recall: np.ndarray
    homes: np.ndarray
    share: float
    floor: float


def of_clusters(clusters: np.ndarray, codes: np.ndarray, n_classes: int, share: float | None = None) -> Roles:
    """Return the roles of the clusters of a partition.

    Args:
        clusters: (n,) cluster ids 0..C-1.
        codes: (n,) class index 0..L-1 of labelled points, -1 elsewhere.
        n_classes: L.
        share: labelled share of a known class's points, where the split tells it; None = that of the cluster of a typical labelled point.

    A cluster of at least 5 points is known class c when c's labels prevail in it, they are not fewer than a third of the expected share
    would give (binomial, beyond doubt), and it is c's home (half of c's labels) or has three of them and that third. It is novel when it
    has at most a tenth of the expected share (or one stray label), a known class of its size would hardly ever have so few labels, and
    it is no scrap: at least 2 % of a known class's typical size, and as large as the pieces that known classes lost here (up to 15 %).
    """
    found = _count(clusters, codes, n_classes, share)
    known = _known(found)
    home = known & (found.recall >= HOME)
    typical = _typical_size(found, home)
    small = found.totals <= np.maximum(NOVEL_SHARE * found.share * found.sizes + 1e-9, STRAY)
    unlabelled = small & (binom.cdf(found.totals, found.sizes, found.share) < SURE) if n_classes else np.ones(len(small), bool)
    novel = ~known & unlabelled & (found.sizes >= _least_novel(found, typical))
    role = np.where(known, found.by_class.argmax(axis=1), MIXED) if n_classes else np.full(len(small), MIXED)
    order = [c for c in np.argsort(-found.sizes, kind="stable") if novel[c]]
    role[order] = n_classes + np.arange(len(order))
    whole = home & (binom.cdf(found.totals, found.sizes, UNDILUTED * found.share) >= HARDLY)
    low, high = _sizes_of_classes(found.sizes[home])
    proper = whole | (novel & (found.sizes >= low / SIZES) & (found.sizes <= high * SIZES))
    clear = bool((novel & (found.sizes >= 0.2 * found.sizes[home].min(initial=typical))).any())
    return Roles(role, len(order), len(np.unique(role[known])), float(found.sizes[proper].sum() / len(clusters)), clear)


def _count(clusters: np.ndarray, codes: np.ndarray, n_classes: int, share: float | None) -> _Counts:
    """Count labels by cluster and class, and find what share of labels to expect."""
    n_clusters = int(clusters.max()) + 1
    sizes = np.bincount(clusters, minlength=n_clusters)
    by_class = np.zeros((n_clusters, n_classes), np.int64)
    labelled = codes >= 0
    np.add.at(by_class, (clusters[labelled], codes[labelled]), 1)
    totals, winners, given = by_class.sum(axis=1), by_class.max(axis=1, initial=0), by_class.sum(axis=0)
    of_class = by_class / np.maximum(given, 1)
    recall = of_class[np.arange(n_clusters), by_class.argmax(axis=1)] if n_classes else np.zeros(n_clusters)
    homes = (of_class >= HOME).sum(axis=1)
    seen = given[given > 0]
    fixed = share is None and len(seen) > 1 and seen.max() - seen.min() <= 2
    expected = share if share is not None else _typical_share(sizes, totals)
    return _Counts(sizes, by_class, totals, winners, recall, homes, expected, expected * (FIXED_SHARE if fixed else KNOWN_SHARE))


def _typical_share(sizes: np.ndarray, totals: np.ndarray) -> float:
    """Return the labelled share of its cluster that the median labelled point sees; 0 without labels."""
    if not totals.any():
        return 0.0
    shares = totals / np.maximum(sizes, 1)
    order = np.argsort(shares, kind="stable")
    middle = np.searchsorted(np.cumsum(totals[order]), totals.sum() / 2)
    return float(shares[order][middle])


def _known(found: _Counts) -> np.ndarray:
    """Return the (C,) mask of clusters that are a known class."""
    # A few strays among few labels are no second class, as long as no other class is at home here.
    lenient = (2 * found.winners > found.totals) & (found.recall >= HOME) & (found.homes == 1)
    lenient &= binom.cdf(found.winners, found.totals, PURITY) >= SURE
    pure = (found.winners >= PURITY * found.totals) | lenient
    enough = binom.cdf(found.totals, found.sizes, found.floor) >= HARDLY
    piece = (found.winners >= 3) & (found.totals >= KNOWN_SHARE * found.share * found.sizes)
    known: np.ndarray = (found.sizes >= LEAST) & (found.totals > 0) & pure & enough & ((found.recall >= HOME) | piece)
    return known


def _typical_size(found: _Counts, home: np.ndarray) -> float:
    """Return the median size of known classes' clusters; without any, what the labels of a class lead one to expect."""
    if home.any():
        return float(np.median(found.sizes[home]))
    given = found.by_class.sum(axis=0)
    return float(np.median(given[given > 0]) / max(found.share, 1e-9)) if given.any() else float(np.median(found.sizes))


def _least_novel(found: _Counts, typical: float) -> float:
    """Return the least size of a novel cluster: no less than the scraps that known classes left, as far as these are small."""
    scraps = (found.winners > 0) & (found.winners >= PURITY * found.totals) & (found.recall < HOME)
    scraps &= found.totals >= KNOWN_SHARE * found.share * found.sizes
    return max(LEAST, SMALLEST * typical, min(SCRAPS * typical, float(found.sizes[scraps].max(initial=0))))


def _sizes_of_classes(sizes: np.ndarray) -> tuple[float, float]:
    """Return the range of known classes' sizes, without its outermost twentieths; an empty one without known clusters."""
    return tuple(np.percentile(sizes, (5, 95))) if len(sizes) else (np.inf, 0.0)


def choose_cell(
    partitions: Sequence[np.ndarray],
    scores: Sequence[float],
    eligible: Sequence[bool],
    codes: np.ndarray,
    n_classes: int,
    share: float | None = None,
) -> int:
    """Return the index of the cell that recovers most known classes beside a novel cluster and places most points well.

    The score alone prefers few, large clusters, which merge classes (spec: 'Old suffers where clusters are too few'); it decides between
    cells that recover as many classes and place as many points (to a twentieth). What is left is decided by the points placed, then by
    order. Cells without a clear novel cluster, then ineligible ones, are taken only for want of others. `share` as for `of_clusters`.
    """

    def rank(cell: int) -> tuple[bool, bool, int, int, float, float, int]:
        roles = of_clusters(partitions[cell], codes, n_classes, share)
        placed = round(STEPS * roles.placed)
        return bool(eligible[cell]), roles.clear, roles.n_recovered, placed, scores[cell], roles.placed, -cell

    return max(range(len(partitions)), key=rank)


def split_novel(
    features: np.ndarray, targets: np.ndarray, sizes: np.ndarray, n_classes: int, kmeans: Callable[[np.ndarray, int], np.ndarray]
) -> np.ndarray:
    """Return targets with every novel cluster that is larger than known classes are split by k-means into parts of their typical size.

    Args:
        features: (n, d).
        targets: (n,) class index, novel index, or MIXED.
        sizes: (n classes and novel clusters,) members of each under semi-supervised k-means.
        n_classes: L.
        kmeans: `kmeans(features, n_clusters) -> (n,) labels`.

    Without a known class nothing says how large one is: no cluster is split.
    """
    if not n_classes:
        return targets
    typical, largest = float(np.median(sizes[:n_classes])), _sizes_of_classes(sizes[:n_classes])[1]
    result, fresh = np.where(targets < n_classes, targets, MIXED), n_classes
    for novel in range(n_classes, len(sizes)):
        members = np.flatnonzero(targets == novel)
        size = max(len(members), sizes[novel])
        parts = max(1, round(size / max(typical, 1.0))) if size >= SIZES * largest else 1
        labels = kmeans(features[members], parts) if parts > 1 and len(members) > 5 * parts else np.zeros(len(members), np.int64)
        result[members] = fresh + labels
        fresh += int(labels.max()) + 1 if len(members) else 0
    return result
