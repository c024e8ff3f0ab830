"""Semi-supervised k-means: labelled points stay in their class's cluster, k-means++ seeds the rest.

Source: Vaze et al. 2022, "Generalized Category Discovery", section 3.2; seeding by Arthur and Vassilvitskii 2007, "k-means++".
Without labelled points it is plain k-means (Lloyd 1982).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from core.clustering.matching import best_pairs, contingency
from core.errors import UserError
from core.finite import require_finite
from core.progress import bar

_BLOCK_CELLS = 1 << 21


@dataclass(frozen=True)
class KMeansResult:
    """`labels` (N,) int64 in 0..K-1, `centres` (K, d) float32 means of the clusters, `inertia` the sum of squared distances to them.

    `iterations` is how many rounds the winning initialisation took.
    """

    labels: np.ndarray
    centres: np.ndarray
    inertia: float
    iterations: int


def semi_supervised_kmeans(
    features: np.ndarray,
    labels: np.ndarray,
    labelled_mask: np.ndarray,
    n_clusters: int,
    rng: np.random.Generator,
    n_init: int = 10,
    max_iter: int = 100,
    tol: float = 1e-4,
    novel_centres: np.ndarray | None = None,
) -> KMeansResult:
    """Cluster features (N, d) into `n_clusters`, the points of labelled_mask (N,) held in the cluster of their class.

    The L classes among labels[labelled_mask], ascending, own clusters 0..L-1; labels outside the mask are ignored. Of `n_init`
    initialisations the one with the smallest inertia is returned (ties: the first); each stops when no point moves, when the
    squared moves of the centres add up to at most `tol` times the mean variance of a feature, or after `max_iter` rounds. A cluster that
    runs empty takes the free point farthest from its centre. With `novel_centres` (K - L, d), clusters L..K-1 start there and nothing is
    drawn. Deterministic in `rng`. Raises UserError when `n_clusters` cannot hold the
    classes or exceeds what the points can fill, and for features that are not finite.
    """
    if n_init < 1 or max_iter < 1:
        raise ValueError(f"n_init and max_iter must be at least 1, got {n_init} and {max_iter}")
    features = np.asarray(features, dtype=np.float32)
    problem = _pose(features, labels, labelled_mask, n_clusters)
    threshold = tol * float(np.var(problem.points, axis=0, dtype=np.float64).mean())
    starts = _seed(problem, rng, n_init) if novel_centres is None else iter([_given(problem, novel_centres)])
    best = _lloyd(problem, next(starts), max_iter, threshold)
    for start in starts:
        result = _lloyd(problem, start, max_iter, threshold)
        # Runs that end in the same partition under other cluster ids differ by rounding only: that is a tie, and the first one stays.
        if result.inertia < best.inertia * (1 - 1e-9):
            best = result
    return KMeansResult(best.labels, best.centres + problem.origin, best.inertia, best.iterations)


def draw_centres(points: np.ndarray, centres: np.ndarray, n_more: int, rng: np.random.Generator) -> np.ndarray:
    """Return `centres` (C, d) and `n_more` of `points` (N, d) below them, drawn one after another as k-means++ does.

    A point is drawn with a chance proportional to its squared distance to the nearest centre so far; without any, all alike.
    """
    origin = points.mean(axis=0)
    drawn = _drawn(points - origin, np.asarray(centres, dtype=np.float32) - origin, n_more, 1, rng)[:, 0]
    return np.concatenate([centres, points[drawn]]).astype(np.float32)


def assign(features: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the index (N,) int64 of the nearest of `centres` (K, d) for each of `features` (N, d); equal centres: the smaller.

    A row's answer does not depend on the rows beside it. Raises UserError for features or centres that are not finite.
    """
    features, centres = np.asarray(features, dtype=np.float32), np.asarray(centres, dtype=np.float32)
    for values, what in ((features, "the features to assign"), (centres, "the cluster centres")):
        require_finite(values, what, "mend the model or the file they come from")
    origin = centres.mean(axis=0)
    return _nearest(features - origin, centres - origin)[0]


def confidences(features: np.ndarray, centres: np.ndarray, temperature: float = 0.1) -> np.ndarray:
    """Return (N, K) float64 shares of the clusters: softmax(-d^2 / 2t) of the distances d of `features` (N, d) to `centres` (K, d).

    The cluster that `assign` names has the largest share. For unit vectors this is the softmax of cosines over t.
    """
    features, centres = np.asarray(features, dtype=np.float64), np.asarray(centres, dtype=np.float64)
    squares = (features**2).sum(axis=1)[:, None] - 2.0 * features @ centres.T + (centres**2).sum(axis=1)
    logits = -squares / (2.0 * temperature)
    shares: np.ndarray = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def estimate_n_clusters(
    features: np.ndarray, labels: np.ndarray, labelled_mask: np.ndarray, k_min: int, k_max: int, rng: np.random.Generator, n_init: int = 3
) -> int:
    """Return the number of clusters in k_min..k_max at which plain k-means agrees best with the labelled points; ties: the smallest.

    Source: Vaze et al. 2022, section 3.3. All points (N, d) are clustered without any label, so every labelled point is held out; the
    Hungarian accuracy on them rises while classes are still merged and falls once they are split. The paper searches with Brent's method;
    here a coarse grid of at most 9 values is refined around its best until the step is 1, which a noisy curve cannot send astray. Never
    tries fewer clusters than there are labelled classes. Unlabelled entries of `labels` (N,) are never read. It is the better the more
    classes are labelled: with one or two the curve is flat. Raises UserError without labelled points or with an empty range.
    """
    mask = np.asarray(labelled_mask, dtype=bool)
    known = np.asarray(labels)[mask]
    if not len(known):
        raise UserError("the number of clusters cannot be estimated without labelled points: give it")
    low, high = max(k_min, 1, len(np.unique(known))), min(k_max, len(mask))
    if low > high:
        raise UserError(f"no number of clusters to try: from {low} (k_min {k_min}, labelled classes) to {high} (k_max {k_max}, points)")
    entropy = int(rng.integers(2**63))
    nobody = np.zeros(len(mask), dtype=bool)
    tried: dict[int, float] = {}
    first, last = low, high
    while True:
        grid = sorted({int(k) for k in np.linspace(first, last, 9).round()})
        for k in bar([k for k in grid if k not in tried], "estimating the number of clusters"):
            # A generator per k: the result for a k does not depend on which others were tried before.
            found = semi_supervised_kmeans(features, labels, nobody, k, np.random.default_rng([entropy, k]), n_init).labels[mask]
            table = contingency(found, known)
            tried[k] = table.counts[best_pairs(table.counts)].sum() / len(known)
        best = max(tried, key=lambda k: (tried[k], -k))
        if len(grid) == last - first + 1:
            return best
        at = sorted(tried).index(best)
        first, last = sorted(tried)[max(at - 1, 0)], sorted(tried)[min(at + 1, len(tried) - 1)]


@dataclass(frozen=True)
class _Problem:
    """The points (N, d) float32 around `origin`: clamped ones hold their cluster in `labels` (N,), the free ones' entries are -1."""

    points: np.ndarray
    origin: np.ndarray
    labels: np.ndarray
    free: np.ndarray
    free_points: np.ndarray
    class_sums: np.ndarray
    class_sizes: np.ndarray
    n_clusters: int

    @property
    def class_centres(self) -> np.ndarray:
        """Return the means (L, d) of the clamped points of each class."""
        return self.class_sums / self.class_sizes[:, None].astype(np.float32)


def _pose(features: np.ndarray, labels: np.ndarray, labelled_mask: np.ndarray, n_clusters: int) -> _Problem:
    """Check the arguments and set the problem up; see `semi_supervised_kmeans` for the errors."""
    mask = np.asarray(labelled_mask, dtype=bool)
    require_finite(features, "the features given to k-means", "mend the model or the file they come from")
    if features.ndim != 2 or not len(features) or mask.shape != (len(features),) or np.shape(labels) != mask.shape:
        raise ValueError(f"features {features.shape}, labels {np.shape(labels)} and mask {mask.shape} do not fit together")
    classes, clamped = np.unique(np.asarray(labels)[mask], return_inverse=True)
    free = np.flatnonzero(~mask)
    if n_clusters < max(1, len(classes)):
        raise UserError(f"n_clusters {n_clusters} cannot hold {len(classes)} labelled classes: ask for at least {max(1, len(classes))}")
    if n_clusters > len(classes) + len(free):
        raise UserError(f"n_clusters {n_clusters} is more than {len(classes)} labelled classes and {len(free)} unlabelled points can fill")
    origin = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    # Around their mean, ||x||^2 - 2xc + ||c||^2 loses the least to float32 cancellation.
    points = features - origin
    cluster = np.full(len(points), -1, dtype=np.int64)
    cluster[mask] = clamped
    sums, sizes = _sums(points[mask], clamped, len(classes))
    return _Problem(points, origin, cluster, free, points[free], sums, sizes, n_clusters)


def _seed(problem: _Problem, rng: np.random.Generator, n_init: int) -> Iterator[np.ndarray]:
    """Yield the (K, d) starting centres of each initialisation: the class means, then k-means++ draws among the free points."""
    given, points = problem.class_centres, problem.free_points
    n_new = problem.n_clusters - len(given)
    if not n_new:
        yield given
        return
    chosen = _drawn(points, given, n_new, n_init, rng)
    for run in range(n_init):
        yield np.concatenate([given, points[chosen[:, run]]])


def _drawn(points: np.ndarray, given: np.ndarray, n_new: int, n_init: int, rng: np.random.Generator) -> np.ndarray:
    """Return (n_new, n_init) indices of `points` (N, d), drawn as k-means++ does beside the `given` centres (C, d).

    All initialisations draw at once, so that each new centre costs one pass over the points instead of `n_init`.
    """
    norms = np.einsum("nd,nd->n", points, points)
    # Without any centre yet, equal weights make the first draw uniform.
    start = np.maximum(norms + _nearest(points, given)[1], 0.0) if len(given) else np.ones(len(points), dtype=np.float32)
    squares = np.repeat(start[:, None], n_init, axis=1)
    chosen = np.empty((n_new, n_init), dtype=np.int64)
    for step, draws in enumerate(rng.random((n_new, n_init))):
        mass = np.cumsum(squares, axis=0, dtype=np.float64)
        targets = draws * mass[-1]
        picks = [min(int(np.searchsorted(mass[:, run], targets[run], side="right")), len(points) - 1) for run in range(n_init)]
        distances = norms[:, None] + norms[picks] - 2.0 * (points @ points[picks].T)
        squares = np.maximum(distances, 0.0) if not step and not len(given) else np.clip(distances, 0.0, squares)
        squares[picks, np.arange(n_init)] = 0.0
        chosen[step] = picks
    return chosen


def _given(problem: _Problem, novel_centres: np.ndarray) -> np.ndarray:
    """Return the (K, d) starting centres: the class means, then the given ones."""
    centres = np.concatenate([problem.class_centres, np.asarray(novel_centres, dtype=np.float32) - problem.origin])
    if len(centres) != problem.n_clusters:
        raise ValueError(
            f"{len(novel_centres)} given centres and {len(problem.class_centres)} classes are not {problem.n_clusters} clusters"
        )
    return centres


def _lloyd(problem: _Problem, centres: np.ndarray, max_iter: int, threshold: float) -> KMeansResult:
    """Alternate between assigning the free points and averaging, from the starting `centres` (K, d) on."""
    labels = problem.labels.copy()
    rounds = 0
    while rounds < max_iter:
        rounds += 1
        placed, scores = _nearest(problem.free_points, centres)
        previous = labels[problem.free]
        _fill_empty(problem, placed, scores)
        labels[problem.free] = placed
        if np.array_equal(placed, previous):
            break
        means = _means(problem, placed)
        moved = float(np.sum((means - centres) ** 2, dtype=np.float64))
        centres = means
        if moved <= threshold:
            break
    return KMeansResult(labels, centres, _inertia(problem.points, labels, centres), rounds)


def _fill_empty(problem: _Problem, placed: np.ndarray, scores: np.ndarray) -> None:
    """Give each empty cluster, in id order, the free point farthest from its centre whose cluster keeps another; changes `placed`."""
    sizes = np.bincount(placed, minlength=problem.n_clusters)
    sizes[: len(problem.class_sizes)] += problem.class_sizes
    empty = list(np.flatnonzero(sizes == 0)[::-1])
    if not empty:
        return
    distances = np.einsum("nd,nd->n", problem.free_points, problem.free_points) + scores
    for point in np.argsort(-distances, kind="stable"):
        if sizes[placed[point]] > 1:
            sizes[placed[point]] -= 1
            placed[point] = empty.pop()
            sizes[placed[point]] = 1
            if not empty:
                return


def _nearest(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of `points` (N, d) its nearest centre's index and ||c||^2 - 2xc, its squared distance less ||x||^2."""
    labels = np.empty(len(points), dtype=np.int64)
    scores = np.empty(len(points), dtype=np.float32)
    norms = np.einsum("kd,kd->k", centres, centres)
    doubled = -2.0 * centres.T
    rows = max(1, _BLOCK_CELLS // len(centres))
    for start in range(0, len(points), rows):
        block = points[start : start + rows] @ doubled
        block += norms
        nearest = block.argmin(axis=1)
        labels[start : start + rows] = nearest
        scores[start : start + rows] = block[np.arange(len(block)), nearest]
    return labels, scores


def _sums(points: np.ndarray, labels: np.ndarray, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums (K, d) float32 and sizes (K,) of the clusters; a sparse product, N*d additions whatever K."""
    shape = (n_clusters, len(points))
    members = csr_array((np.ones(len(points), dtype=np.float32), (labels, np.arange(len(points)))), shape=shape)
    return members @ points, np.bincount(labels, minlength=n_clusters)


def _means(problem: _Problem, placed: np.ndarray) -> np.ndarray:
    """Return the means (K, d) of the clusters, clamped points included; none of them is empty."""
    sums, sizes = _sums(problem.free_points, placed, problem.n_clusters)
    n_classes = len(problem.class_sizes)
    sums[:n_classes] += problem.class_sums
    sizes[:n_classes] += problem.class_sizes
    return sums / sizes[:, None].astype(np.float32)


def _inertia(points: np.ndarray, labels: np.ndarray, centres: np.ndarray) -> float:
    """Return the sum of squared distances of the points to their centres, from differences so that tight clusters keep their digits."""
    rows = max(1, _BLOCK_CELLS // points.shape[1])
    total = 0.0
    for start in range(0, len(points), rows):
        gaps = points[start : start + rows] - centres[labels[start : start + rows]]
        total += float(np.einsum("nd,nd->", gaps, gaps, dtype=np.float64))
    return total
