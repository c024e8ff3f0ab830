"""Hungarian matching of two partitions: counts, best one-to-one pairs, cluster identities that persist between refreshes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Contingency(NamedTuple):
    """How often each pair of ids occurs together: ``counts[r, c]`` points carry ``rows[r]`` and ``columns[c]``."""

    rows: np.ndarray
    columns: np.ndarray
    counts: np.ndarray


def contingency(row_ids: np.ndarray, column_ids: np.ndarray) -> Contingency:
    """Count the pairs of two (N,) integer arrays; `rows` and `columns` hold the distinct ids, ascending.

    Raises ValueError when the arrays are not one-dimensional, differ in length or hold anything but whole numbers.
    """
    row_ids, column_ids = as_ids(row_ids), as_ids(column_ids)
    if len(row_ids) != len(column_ids):
        raise ValueError(f"two partitions of the same points are needed, got {len(row_ids)} and {len(column_ids)} ids")
    rows, row = np.unique(row_ids, return_inverse=True)
    columns, column = np.unique(column_ids, return_inverse=True)
    counts = np.bincount(row * len(columns) + column, minlength=len(rows) * len(columns))
    return Contingency(rows, columns, counts.reshape(len(rows), len(columns)))


def as_ids(ids: np.ndarray) -> np.ndarray:
    """Return `ids` as an (N,) int64 array; ValueError when they are not one row of whole numbers."""
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(f"ids must be one-dimensional, got shape {ids.shape}")
    whole = ids.astype(np.int64)
    if ids.dtype.kind not in "iub" and not np.array_equal(whole, ids):
        raise ValueError("ids must be whole numbers")
    return whole


def best_pairs(counts: np.ndarray, preferred: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, columns), the one-to-one pairs with the largest total of the (R, C) `counts`; min(R, C) of them.

    Several assignments can share that total, and which one a solver meets first depends on the order of the rows. `preferred`, a (C,)
    mask, settles it: among them the one with the most counts in the preferred columns is taken, whatever the order.
    """
    weights = counts.astype(np.float64)
    if preferred is not None:
        weights = weights * (counts.sum() + 1) + weights * np.asarray(preferred, dtype=bool)
    from scipy.optimize import linear_sum_assignment  # a second, which a wrong option need not wait for

    rows, columns = linear_sum_assignment(weights, maximize=True)
    return rows, columns


def match(previous_labels: np.ndarray, current_labels: np.ndarray, first_fresh: int | None = None) -> np.ndarray:
    """Return `current_labels` (N,) renamed so that clusters keep the ids of the `previous_labels` (N,) they overlap most.

    The renaming is one-to-one and maximises the number of points that keep their id (Hungarian). A current cluster without a partner, or
    whose partner shares no point with it, is new: it gets a fresh id above all previous ones, in ascending order of its current id.
    `first_fresh` raises the smallest fresh id, so that a caller who remembers the largest id ever given never hands out a vanished one.
    """
    table = contingency(current_labels, previous_labels)
    if not table.rows.size:
        return np.zeros(0, dtype=np.int64)
    names = np.full(len(table.rows), -1, dtype=np.int64)
    kept = np.zeros(len(table.rows), dtype=bool)
    rows, columns = best_pairs(table.counts)
    overlapping = table.counts[rows, columns] > 0
    rows, columns = rows[overlapping], columns[overlapping]
    names[rows], kept[rows] = table.columns[columns], True
    fresh = max(int(table.columns[-1]) + 1, 0 if first_fresh is None else first_fresh)
    names[~kept] = fresh + np.arange(np.count_nonzero(~kept))
    return names[np.searchsorted(table.rows, as_ids(current_labels))]


def change_rate(previous_labels: np.ndarray, current_matched: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the fraction of points, or of the points in the (N,) boolean `mask`, whose label changed; 0.0 when there are none.

    `current_matched` comes from `match`: without matching, a mere renaming of clusters would count as change.
    """
    previous, current = as_ids(previous_labels), as_ids(current_matched)
    if len(previous) != len(current):
        raise ValueError(f"two partitions of the same points are needed, got {len(previous)} and {len(current)} ids")
    changed = previous != current
    if mask is not None:
        changed = changed[np.asarray(mask, dtype=bool)]
    return float(changed.mean()) if changed.size else 0.0
