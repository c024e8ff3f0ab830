"""How many classes there are among points of which some are labelled, or none.

A labelled class whose labels are hidden is a novel class whose members are known. At the right number of clusters semi-supervised k-means,
given the other labels, makes it a cluster of its own: with fewer it shares one with other classes, with more it falls apart. That F1,
averaged over the labelled classes, and the silhouette of the unlabelled points under all labels (which sees the novel classes
themselves) are the score of a number; the smallest number that is as good as the best is the estimate. Without any label the number of
the highest silhouette is.

    count = estimate(features, labels, seed)
    count.n, (count.low, count.high), count.curve
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from core.clustering.hidden_classes import recovered
from core.clustering.kmeans import semi_supervised_kmeans
from core.clustering.neighbours import Neighbours, build
from core.clustering.silhouette import mean_silhouettes
from core.finite import require_finite

MOST = 3_000  # points; of more, a sample: it is counted after every epoch
LABELS = 1_200  # of the sample's points at most are labelled, the same number of each class as far as there are so many
LEAST_LABELS = 3  # of a class in the sample
DIMENSIONS = 48  # principal components: distances in more of them are mostly noise
FOLDS = 5  # groups of labelled classes that are hidden in turn
STRANGERS = 2  # clusters at least beside the labelled classes, where their labelled share is measured
STARTS, MANY = 3, 30  # of each k-means; one is enough where clusters are many
COMPARED = 1_500  # unlabelled points at most whose silhouettes are computed, against all
SILHOUETTE_WEIGHT = 0.75
AS_GOOD = 0.015  # of the score: numbers that differ by less are told apart by size, the smaller one is taken
EACH = 8  # numbers from the smallest on are all tried; beyond, every next is an eighth larger, and the best is then looked at closely
PER_CLASS = 3  # points at least, on average
UNLABELLED_MOST, MORE = 24, 3  # classes that are looked for: so many, or so many times the labelled ones where that is more


@dataclass(frozen=True)
class Count:
    """A number of classes, and how sure it is.

    Attributes:
        n: the estimate, known and novel classes together.
        low, high: from the smallest to the largest number whose score is not clearly worse than the best: by no more than the
            standard error that the difference has over the hidden classes.
        curve: (K, score) of every number that was tried, ascending K.
    """

    n: int
    low: int
    high: int
    curve: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class _Points:
    """x (N, d) principal components; codes (N,) class 0..L-1 or -1, of n_known classes; folds: groups of classes to hide.

    neighbours: their distances. share: of a labelled class's points are labelled.
    """

    x: np.ndarray
    codes: np.ndarray
    n_known: int
    folds: tuple[np.ndarray, ...]
    seed: int
    neighbours: Neighbours
    share: float = 1.0


def estimate(features: np.ndarray, labels: np.ndarray, seed: int) -> Count:
    """Return the estimated number of classes of L2-normalised features (N, d); labels (N,) are -1 where nobody gave one.

    Deterministic in `seed`, whatever the order of the points. Raises UserError for features that are not finite.
    """
    require_finite(features, "the features whose classes are counted", "mend the model or the file they come from")
    order = np.lexsort([*features.T[:DIMENSIONS], labels])
    features, labels = features[order], labels[order]
    known, codes = np.unique(labels[labels >= 0], return_inverse=True)
    all_codes = np.full(len(labels), -1)
    all_codes[labels >= 0] = codes
    rng = np.random.default_rng([seed, len(labels)])
    chosen = _sample(all_codes, rng)
    folds = tuple(np.array_split(rng.permutation(len(known)), min(FOLDS, len(known)))) if len(known) else ()
    x = _components(features[chosen])
    points = _Points(x, all_codes[chosen], len(known), folds, seed, build(x, min(1, len(x) - 1)))
    return _search(dataclasses.replace(points, share=_labelled_share(points)) if len(known) else points)


def wanted(n: int, n_known: int, over_cluster: float, n_points: int) -> int:
    """Return how many clusters to make of `n_points` points for `n` classes: `over_cluster` times as many, for a person to merge.

    Never fewer than the `n_known` labelled classes or 1, and no more than there are points, but for the classes.
    """
    return max(n_known, 1, min(math.floor(n * over_cluster + 0.5), n_points))


def _sample(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of all points, or of `MOST`: labelled ones of every class among them, however rare labels are."""
    if len(codes) <= MOST:
        return np.arange(len(codes))
    drawn = rng.permutation(len(codes))
    ordered = codes[drawn]
    each = max(LEAST_LABELS, LABELS // max(int(codes.max()) + 1, 1))
    taken = [drawn[ordered == c][:each] for c in range(int(codes.max()) + 1)]
    n_taken = sum(map(len, taken))
    return np.sort(np.concatenate([*taken, drawn[ordered < 0][: max(MOST - n_taken, MOST // 2)]]))


def _components(features: np.ndarray) -> np.ndarray:
    """Return the leading principal components (N, d) float32 of the centred features of unit length."""
    x: np.ndarray = features - features.mean(axis=0, dtype=np.float64)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    d = x.shape[1]
    if d <= DIMENSIONS:
        return np.asarray(x, np.float32)
    axes = eigh(x.T @ x, subset_by_index=[d - DIMENSIONS, d - 1])[1]
    return np.ascontiguousarray((x @ axes[:, ::-1]).astype(np.float32))


def _range(points: _Points) -> tuple[int, int]:
    """Return the smallest and the largest number of classes to try."""
    low = max(points.n_known, 1)
    n_different = 1 + int((np.abs(np.diff(points.x, axis=0)).max(axis=1, initial=0) > 0).sum())
    room = min(len(points.x) // PER_CLASS, n_different, points.n_known + int((points.codes < 0).sum()))
    return low, max(low, min(room, max(UNLABELLED_MOST, MORE * points.n_known + 4)))


def _search(points: _Points) -> Count:
    """Score the smallest numbers one by one and larger ones in growing steps; look at all between those around the best."""
    low, high = _range(points)
    if not points.n_known and high > low:
        low += 1  # one cluster has no silhouette
    numbers = list(range(low, min(low + EACH, high) + 1))
    while numbers[-1] < high:
        numbers.append(min(high, max(numbers[-1] + 1, numbers[-1] * 9 // 8)))
    tried: dict[int, np.ndarray] = {}
    while True:
        for k in numbers:
            tried[k] = _scores(points, k)
        # A hidden class that is found stays found until there are clusters to split it; a silhouette has a peak.
        count = _chosen(tried, AS_GOOD if points.n_known else 0.0)
        around = sorted(tried)
        at = around.index(count.n)
        first, last = around[max(at - 1, 0)], around[min(at + 1, len(around) - 1)]
        numbers = [k for k in range(first, last + 1, max(1, (last - first) // EACH)) if k not in tried]
        if not numbers:
            return count


def _chosen(tried: dict[int, np.ndarray], as_good: float) -> Count:
    """Return the smallest number whose mean score is the best's but for `as_good`, and those that are not clearly worse."""
    numbers = sorted(tried)
    scores = np.array([tried[k] for k in numbers])  # (numbers, folds)
    means = scores.mean(axis=1)
    best = int(means.argmax())
    gaps = scores[best] - scores
    errors = gaps.std(axis=1, ddof=1) / math.sqrt(scores.shape[1]) if scores.shape[1] > 1 else np.zeros(len(numbers))
    chosen = int(np.flatnonzero(means >= means[best] - as_good)[0])
    close = np.flatnonzero(means >= means[best] - np.maximum(errors, AS_GOOD))
    curve = tuple((k, float(mean)) for k, mean in zip(numbers, means, strict=True))
    return Count(numbers[chosen], numbers[int(close[0])], numbers[int(close[-1])], curve)


def _scores(points: _Points, k: int) -> np.ndarray:
    """Return the scores (folds,) of k clusters, one for each group of hidden classes; a single one without labels."""
    found = _clusters(points, points.codes, k)
    free = np.flatnonzero(points.codes < 0)
    free = free[:: -(-len(free) // COMPARED)] if len(free) else free
    silhouette = float(mean_silhouettes(points.neighbours, free, found[None])[0]) if len(free) and k > 1 else 0.0
    if not points.n_known:
        return np.array([silhouette])
    return np.array([_recovered(points, k, hidden) for hidden in points.folds]) + SILHOUETTE_WEIGHT * silhouette


def _clusters(points: _Points, codes: np.ndarray, k: int) -> np.ndarray:
    rng = np.random.default_rng([points.seed, k])
    return semi_supervised_kmeans(points.x, codes, codes >= 0, k, rng, STARTS if k <= MANY else 1).labels


def _labelled_share(points: _Points) -> float:
    """Return the median labelled share of the labelled classes' clusters, beside a few free ones that take most strangers away."""
    beside = min(max(STRANGERS, math.ceil(points.n_known / 4)), int((points.codes < 0).sum()))
    clusters = _clusters(points, points.codes, points.n_known + beside)
    labelled = np.bincount(points.codes[points.codes >= 0], minlength=points.n_known)
    return float(np.median(labelled / np.bincount(clusters, minlength=points.n_known)[: points.n_known]))


def _recovered(points: _Points, k: int, hidden: np.ndarray) -> float:
    """Return how well k clusters recover the classes `hidden` from them; 0 where that leaves no cluster free."""
    n_shown = points.n_known - len(hidden)
    if k <= n_shown:
        return 0.0
    clusters = _clusters(points, np.where(np.isin(points.codes, hidden), -1, points.codes), k)
    return recovered(clusters, points.codes, hidden, points.share, n_shown, k)
