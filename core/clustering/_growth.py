"""Steps 3 and 4 of SSDDBC in compiled code: edges among core points, and the growth of backbone clusters.

Growth queues all members of a cluster that merges, and most of them change nothing: all their edges stay inside. Two exact short cuts keep
it near linear. (1) Each cluster keeps its *border*, the members with an edge that was left alone (two clusters of different labels, target
at least as dense); only those are looked at again, in ascending order as the queue would have it. (2) A border is known to be inert as long
as no label a cluster carries has changed and no point was taken from a cluster since it was last examined (`clock`); then it is passed on
whole. A merger that leaves the label carried by either side in place does not count as a change.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit


class Points(NamedTuple):
    """Per point: raw cluster id (-1 unassigned), neighbours in its cluster's border list and whether it is in one, label code, density."""

    cluster: np.ndarray
    after: np.ndarray
    before: np.ndarray
    listed: np.ndarray
    codes: np.ndarray
    density: np.ndarray


class Clusters(NamedTuple):
    """Per raw cluster: union-find parent, members, labelled ones, these by label, commonest label, border list, when examined."""

    parent: np.ndarray
    size: np.ndarray
    labelled: np.ndarray
    counts: np.ndarray
    top: np.ndarray
    head: np.ndarray
    tail: np.ndarray
    examined: np.ndarray


@njit(cache=True, nogil=True)
def edges_from_lists(
    order: np.ndarray,
    nearest: np.ndarray,
    complete: bool,
    core: np.ndarray,
    core_mask: np.ndarray,
    k: int,
    cutoff: float,
    targets: np.ndarray,
    n_edges: np.ndarray,
) -> np.ndarray:
    """Fill each core point's edges from its sorted list; return the points whose list ended before the answer was certain."""
    open_points = np.empty(len(core), np.int64)
    n_open = 0
    for i in core:
        kept, certain = 0, complete
        for e in range(order.shape[1]):
            if kept == k or nearest[i, e] > cutoff:
                certain = True
                break
            j = order[i, e]
            if core_mask[j]:
                targets[i, kept] = j
                kept += 1
        n_edges[i] = kept
        if not certain and kept < k:
            open_points[n_open] = i
            n_open += 1
    return open_points[:n_open]


@njit(cache=True, nogil=True)
def edges_from_rows(
    points: np.ndarray,
    matrix: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    core: np.ndarray,
    k: int,
    cutoff: float,
    targets: np.ndarray,
    n_edges: np.ndarray,
) -> None:
    """Fill the edges of `points` from whole rows of distances: the k nearest core points within `cutoff`, by (distance, index)."""
    distances = np.empty(k, np.float64)
    for t in range(len(points)):
        i, kept = points[t], 0
        for u in range(len(core)):
            j, d = core[u], matrix[rows[t], columns[u]]
            if j == i or d > cutoff or (kept == k and d >= distances[k - 1]):
                continue
            e = kept if kept < k else k - 1
            while e > 0 and distances[e - 1] > d:
                distances[e], targets[i, e] = distances[e - 1], targets[i, e - 1]
                e -= 1
            distances[e], targets[i, e] = d, j
            kept = min(kept + 1, k)
        n_edges[i] = kept


@njit(cache=True, nogil=True)
def _root(parent: np.ndarray, c: int) -> int:
    while parent[c] != c:
        parent[c] = parent[parent[c]]
        c = parent[c]
    return c


@njit(cache=True, nogil=True)
def _carried(clusters: Clusters, c: int) -> int:
    """Return the label cluster `c` carries, or -1: >= 5 members, > 25 % labelled, >= 80 % of these alike; whole numbers only."""
    labelled = clusters.labelled[c]
    if clusters.size[c] < 5 or 4 * labelled <= clusters.size[c]:
        return -1
    return clusters.top[c] if 5 * clusters.counts[c, clusters.top[c]] >= 4 * labelled else -1


@njit(cache=True, nogil=True)
def _list(points: Points, clusters: Clusters, c: int, i: int) -> None:
    """Append point `i` to the border of cluster `c` unless it is there."""
    if points.listed[i]:
        return
    points.listed[i] = True
    points.after[i], points.before[i] = -1, clusters.tail[c]
    if clusters.tail[c] < 0:
        clusters.head[c] = i
    else:
        points.after[clusters.tail[c]] = i
    clusters.tail[c] = i


@njit(cache=True, nogil=True)
def _unlist(points: Points, clusters: Clusters, c: int, i: int) -> None:
    if not points.listed[i]:
        return
    points.listed[i] = False
    if points.before[i] < 0:
        clusters.head[c] = points.after[i]
    else:
        points.after[points.before[i]] = points.after[i]
    if points.after[i] < 0:
        clusters.tail[c] = points.before[i]
    else:
        points.before[points.after[i]] = points.before[i]


@njit(cache=True, nogil=True)
def _join(points: Points, clusters: Clusters, p: int, j: int) -> bool:
    """Add point `j` to cluster `p`; return whether the label that `p` carries changed."""
    carried, code = _carried(clusters, p), points.codes[j]
    points.cluster[j] = p
    clusters.size[p] += 1
    if code >= 0:
        clusters.labelled[p] += 1
        clusters.counts[p, code] += 1
        if clusters.counts[p, code] > clusters.counts[p, clusters.top[p]]:
            clusters.top[p] = code
    return _carried(clusters, p) != carried


@njit(cache=True, nogil=True)
def _take(points: Points, clusters: Clusters, q: int, j: int, sources: np.ndarray, first: np.ndarray) -> None:
    """Remove point `j` from cluster `q`; members of `q` with an edge to it now have one that leads out."""
    _unlist(points, clusters, q, j)
    clusters.size[q] -= 1
    code = points.codes[j]
    if code >= 0:
        clusters.labelled[q] -= 1
        clusters.counts[q, code] -= 1
        clusters.top[q] = np.argmax(clusters.counts[q])
    points.cluster[j] = -1
    for e in range(first[j], first[j + 1]):
        i = sources[e]
        if points.cluster[i] >= 0 and _root(clusters.parent, points.cluster[i]) == q:
            _list(points, clusters, q, i)


@njit(cache=True, nogil=True)
def _merge(clusters: Clusters, q: int, p: int) -> bool:
    """Merge cluster `q` into `p`; return whether that changes any label carried, as far as a third cluster can tell."""
    ours, theirs = _carried(clusters, p), _carried(clusters, q)
    clusters.parent[q] = p
    clusters.size[p] += clusters.size[q]
    if clusters.labelled[q]:
        clusters.labelled[p] += clusters.labelled[q]
        clusters.counts[p] += clusters.counts[q]
        clusters.top[p] = np.argmax(clusters.counts[p])
    # a cluster that carries nothing has no inert edges, neither out nor in
    return _carried(clusters, p) != max(ours, theirs)


@njit(cache=True, nogil=True)
def _visit(
    i: int,
    p: int,
    targets: np.ndarray,
    n_edges: np.ndarray,
    points: Points,
    clusters: Clusters,
    queue: np.ndarray,
    end: int,
    sources: np.ndarray,
    first: np.ndarray,
) -> tuple[int, bool]:
    """Follow the edges of point `i` of cluster `p`; return the queue's new end and whether any label or member was lost or changed."""
    changed, left_alone = False, False
    for e in range(n_edges[i]):
        j = targets[i, e]
        q = points.cluster[j]
        if q >= 0:
            q = points.cluster[j] = _root(clusters.parent, q)
        if q == p or (points.codes[i] >= 0 and points.codes[j] >= 0 and points.codes[i] != points.codes[j]):
            continue
        if q < 0:
            changed |= _join(points, clusters, p, j)
            queue[end] = j
            end += 1
            continue
        ours, theirs = _carried(clusters, p), _carried(clusters, q)
        if ours < 0 or theirs < 0 or ours == theirs:
            changed |= _merge(clusters, q, p)
            queue[end] = -1 - q
            end += 1
        elif points.density[i] > points.density[j]:
            _take(points, clusters, q, j, sources, first)
            _join(points, clusters, p, j)
            changed = True
            queue[end] = j
            end += 1
        else:
            left_alone = True
    if left_alone:
        _list(points, clusters, p, i)
    return end, changed


@njit(cache=True, nogil=True)
def _members(points: Points, clusters: Clusters, q: int) -> np.ndarray:
    """Empty the border list of `q` and return its points, ascending."""
    count, i = 0, clusters.head[q]
    while i >= 0:
        count += 1
        i = points.after[i]
    members = np.empty(count, np.int64)
    i = clusters.head[q]
    for t in range(count):
        members[t] = i
        points.listed[i] = False
        i = points.after[i]
    clusters.head[q] = clusters.tail[q] = -1
    return np.sort(members)


@njit(cache=True, nogil=True)
def _splice(points: Points, clusters: Clusters, q: int, p: int) -> None:
    """Append the border list of `q` to that of `p`."""
    if clusters.head[q] < 0:
        return
    if clusters.tail[p] < 0:
        clusters.head[p] = clusters.head[q]
    else:
        points.after[clusters.tail[p]] = clusters.head[q]
        points.before[clusters.head[q]] = clusters.tail[p]
    clusters.tail[p] = clusters.tail[q]


@njit(cache=True, nogil=True)
def _reverse(core: np.ndarray, targets: np.ndarray, n_edges: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges by target: sources[first[j]:first[j + 1]] are the points with an edge to j."""
    first = np.zeros(n + 2, np.int64)
    for i in core:
        for e in range(n_edges[i]):
            first[targets[i, e] + 2] += 1
    first = np.cumsum(first)
    sources = np.empty(first[-1], np.int32)
    for i in core:
        for e in range(n_edges[i]):
            j = targets[i, e]
            sources[first[j + 1]] = i
            first[j + 1] += 1
    return sources, first


@njit(cache=True, nogil=True)
def _numbered(points: Points, clusters: Clusters, created: int, n: int) -> np.ndarray:
    """Return cluster ids (N,), numbered from 0 in order of creation, -1 for points in none."""
    number, names, labels = 0, np.full(created, -1, np.int32), np.full(n, -1, np.int32)
    for c in range(created):
        if clusters.parent[c] == c and clusters.size[c] > 0:
            names[c] = number
            number += 1
    for i in range(n):
        if points.cluster[i] >= 0:
            labels[i] = names[_root(clusters.parent, points.cluster[i])]
    return labels


@njit(cache=True, nogil=True)
def grow(starts: np.ndarray, targets: np.ndarray, n_edges: np.ndarray, density: np.ndarray, codes: np.ndarray, n_codes: int) -> np.ndarray:
    """Grow backbone clusters (step 4) and return their ids (N,) int32, -1 for points that are not core.

    starts: the core points by descending density; targets (N, k), n_edges (N,): edges, nearest first; codes (N,): label codes, -1 for none.
    """
    n, most = len(density), len(starts)
    points = Points(np.full(n, -1, np.int32), np.full(n, -1, np.int32), np.full(n, -1, np.int32), np.zeros(n, np.bool_), codes, density)
    clusters = Clusters(
        np.arange(most).astype(np.int32),
        np.zeros(most, np.int32),
        np.zeros(most, np.int32),
        np.zeros((most, max(n_codes, 1)), np.int32),
        np.zeros(most, np.int32),
        np.full(most, -1, np.int32),
        np.full(most, -1, np.int32),
        np.full(most, -1, np.int64),
    )
    sources, first = _reverse(starts, targets, n_edges, n)
    queue = np.empty(2 * most + 2, np.int64)
    clock, created = 0, 0
    for start in starts:
        if points.cluster[start] >= 0:
            continue
        p, created, begun = created, created + 1, clock
        _join(points, clusters, p, start)
        queue[0] = start
        at, end = 0, 1
        while at < end:
            item = queue[at]
            at += 1
            if item >= 0:
                end, changed = _visit(item, p, targets, n_edges, points, clusters, queue, end, sources, first)
                clock += changed
                continue
            q = -1 - item
            if clusters.examined[q] == clock:
                _splice(points, clusters, q, p)
                continue
            for i in _members(points, clusters, q):
                end, changed = _visit(i, p, targets, n_edges, points, clusters, queue, end, sources, first)
                clock += changed
        clusters.examined[p] = clock if clock == begun else -1
    return _numbered(points, clusters, created, n)
