"""Steps 5 and 6 of SSDDBC: small clusters merge into the others, sparse points join the nearest cluster.

Nearest means the smallest mean distance to a cluster's 3 nearest core members (all of them if fewer), ties to the smaller cluster id.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from core.clustering.neighbours import Neighbours

SMALL = 3


@njit(cache=True, nogil=True)
def _keep_three(three: np.ndarray, found: np.ndarray, c: int, d: float) -> None:
    """Insert distance `d` into the ascending three smallest of cluster `c`."""
    if found[c] == 3 and d >= three[c, 2]:
        return
    e = min(found[c], 2)
    while e > 0 and three[c, e - 1] > d:
        three[c, e] = three[c, e - 1]
        e -= 1
    three[c, e] = d
    found[c] = min(found[c] + 1, 3)


@njit(cache=True, nogil=True)
def _closest(three: np.ndarray, found: np.ndarray) -> int:
    """Return the cluster of the smallest mean of its (up to) three distances; clusters without any are passed over."""
    best, best_mean = -1, np.inf
    for c in range(len(found)):
        if found[c]:
            total = 0.0
            for e in range(found[c]):
                total += three[c, e]
            if total / found[c] < best_mean:
                best, best_mean = c, total / found[c]
    return best


@njit(cache=True, nogil=True)
def _nearest_to_means(
    groups: np.ndarray,
    sizes: np.ndarray,
    matrix: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    core: np.ndarray,
    membership: np.ndarray,
    n_clusters: int,
) -> np.ndarray:
    """Return the nearest cluster (by `membership` of `core`, -1 ignored) of each group's mean point.

    groups (G, 3, 2): each member's place in `rows` and in `core`, ascending, `sizes` (G,) of them used.
    |m - x|^2 = mean_a |a - x|^2 - sum_(a<b) |a - b|^2 / s^2.
    """
    result = np.empty(len(groups), np.int64)
    three, found = np.empty((n_clusters, 3)), np.zeros(n_clusters, np.int64)
    for g in range(len(groups)):
        found[:] = 0
        s, spread = sizes[g], 0.0
        for a in range(s):
            for b in range(a + 1, s):
                spread += np.float64(matrix[rows[groups[g, a, 0]], columns[groups[g, b, 1]]]) ** 2
        for u in range(len(core)):
            c = membership[core[u]]
            if c < 0:
                continue
            total = 0.0
            for a in range(s):
                total += np.float64(matrix[rows[groups[g, a, 0]], columns[u]]) ** 2
            _keep_three(three, found, c, np.sqrt(max(total / s - spread / (s * s), 0.0)))
        result[g] = _closest(three, found)
    return result


def _carried_labels(counts: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the label each cluster carries and the only label among its labelled members, -1 for none; counts (C, L) by label."""
    labelled, top = counts.sum(1), counts.argmax(1)
    most = counts.max(1)
    carried = (sizes >= 5) & (4 * labelled > sizes) & (5 * most >= 4 * labelled)
    return np.where(carried, top, -1), np.where((labelled > 0) & (most == labelled), top, -1)


def label_counts(membership: np.ndarray, codes: np.ndarray, n_clusters: int, n_codes: int) -> np.ndarray:
    """Return how many points of each cluster have each label code, (C, L) int64; points without cluster or label are left out."""
    known = (membership >= 0) & (codes >= 0)
    flat = membership[known].astype(np.int64) * max(n_codes, 1) + codes[known]
    return np.bincount(flat, minlength=n_clusters * max(n_codes, 1)).reshape(n_clusters, -1)


def _nearest_clusters(neighbours: Neighbours, small: np.ndarray, membership: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return, for each cluster in `small`, the nearest cluster of `others` (C,) bool to its mean point."""
    core = np.flatnonzero(membership >= 0)
    targets = np.where((membership >= 0) & others[membership], membership, -1)
    result = np.empty(len(small), np.int64)
    members = core[np.isin(membership[core], small)]
    members = members[np.argsort(membership[members], kind="stable")]
    starts = np.searchsorted(membership[members], small)
    sizes = np.append(starts[1:], len(members)) - starts
    # the rows of one cluster's members are needed together
    step = max(1, neighbours.rows_at_once // SMALL)
    for begin in range(0, len(small), step):
        part = slice(begin, begin + step)
        low, high = starts[part][0], starts[part][-1] + sizes[part][-1]
        groups = np.zeros((len(starts[part]), SMALL, 2), np.int64)
        for a in range(SMALL):
            at = np.minimum(starts[part] + a, high - 1)
            groups[:, a, 0], groups[:, a, 1] = at - low, np.searchsorted(core, members[at])
        block = neighbours.block(members[low:high], core)
        result[part] = _nearest_to_means(groups, sizes[part], *block, core, targets, len(others))
    return result


def absorb_small(neighbours: Neighbours, membership: np.ndarray, codes: np.ndarray, n_codes: int) -> np.ndarray:
    """Merge clusters of at most 3 core points into the larger ones (step 5) and return the new ids (N,), consecutive, -1 for sparse points.

    A small cluster whose labelled members share a label goes to the first larger one that carries it or whose labelled members all have it;
    any other goes to the nearest larger one, from its mean point. Nothing merges when all clusters are small.
    """
    sizes = np.bincount(membership[membership >= 0])
    others = sizes > SMALL
    if others.all() or not others.any():
        return membership
    counts = label_counts(membership, codes, len(sizes), n_codes)
    carried, only = _carried_labels(counts, sizes)
    first = np.full(max(n_codes, 1), -1)
    for labels in (carried, only):
        ids = np.flatnonzero(others & (labels >= 0))[::-1]
        seen = np.full(len(first), len(sizes))
        seen[labels[ids]] = ids
        first = np.where((first < 0) | (seen < first), seen, first)
    target = np.arange(len(sizes))
    shared = ~others & (only >= 0)
    shared[shared] = first[only[shared]] < len(sizes)
    target[shared] = first[only[shared]]
    rest = np.flatnonzero(~others & ~shared)
    if len(rest):
        target[rest] = _nearest_clusters(neighbours, rest, membership, others)
    names = np.cumsum(others) - 1
    return np.where(membership >= 0, names[target[membership]], -1).astype(np.int32)


@njit(cache=True, nogil=True)
def _join_from_lists(
    sparse: np.ndarray,
    order: np.ndarray,
    nearest: np.ndarray,
    complete: bool,
    membership: np.ndarray,
    wanted: np.ndarray,
    labels: np.ndarray,
) -> np.ndarray:
    """Let sparse points join by walking their lists; return the points whose list ended before the answer was certain.

    wanted (C,): how many core members count, min(3, size). The walk ends when the best complete mean is below all other lower bounds.
    """
    n_clusters = len(wanted)
    found, total, touched = np.zeros(n_clusters, np.int64), np.zeros(n_clusters), np.empty(n_clusters, np.int64)
    open_points, n_open = np.empty(len(sparse), np.int64), 0
    for i in sparse:
        n_touched, best, best_mean, certain = 0, -1, np.inf, complete
        for e in range(order.shape[1]):
            d = np.float64(nearest[i, e])
            if d > best_mean:
                certain = True
                for t in range(n_touched):
                    c = touched[t]
                    if found[c] < wanted[c] and (total[c] + (wanted[c] - found[c]) * d) / wanted[c] <= best_mean:
                        certain = False
                        break
                if certain:
                    break
                certain = complete
            c = membership[order[i, e]]
            if c < 0 or found[c] == wanted[c]:
                continue
            if found[c] == 0:
                touched[n_touched] = c
                n_touched += 1
            found[c] += 1
            total[c] += d
            if found[c] == wanted[c]:
                mean = total[c] / wanted[c]
                if mean < best_mean or (mean == best_mean and c < best):
                    best, best_mean = c, mean
        for t in range(n_touched):
            found[touched[t]], total[touched[t]] = 0, 0.0
        labels[i] = best
        if not certain:
            open_points[n_open] = i
            n_open += 1
    return open_points[:n_open]


@njit(cache=True, nogil=True)
def _join_from_rows(
    points: np.ndarray,
    matrix: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    core: np.ndarray,
    membership: np.ndarray,
    n_clusters: int,
    labels: np.ndarray,
) -> None:
    """Let `points` join the nearest cluster, from whole rows of distances."""
    three, found = np.empty((n_clusters, 3)), np.zeros(n_clusters, np.int64)
    for t in range(len(points)):
        found[:] = 0
        for u in range(len(core)):
            _keep_three(three, found, membership[core[u]], np.float64(matrix[rows[t], columns[u]]))
        labels[points[t]] = _closest(three, found)


def join_sparse(neighbours: Neighbours, membership: np.ndarray) -> np.ndarray:
    """Return ids (N,) int32 in which each sparse point (-1 in `membership`) has joined the nearest cluster (step 6)."""
    labels = membership.copy()
    core, sparse = np.flatnonzero(membership >= 0), np.flatnonzero(membership < 0)
    wanted = np.minimum(np.bincount(membership[core]), 3)
    if len(wanted) == 1:
        labels[sparse] = 0
        return labels
    left = _join_from_lists(sparse, neighbours.order, neighbours.nearest, neighbours.complete, membership, wanted, labels)
    for part, matrix, rows, columns in neighbours.blocks(left, core):
        _join_from_rows(left[part], matrix, rows, columns, core, membership, len(wanted), labels)
    return labels
