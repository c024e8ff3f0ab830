"""How well clusters recover classes whose labels were hidden from them, without the truth of any unlabelled point."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment


def recovered(clusters: np.ndarray, codes: np.ndarray, hidden: np.ndarray, share: float, n_shown: int, n_clusters: int) -> float:
    """Return the mean F1 (0..1) with which the clusters recover the hidden classes, one to one; 0 where no cluster is free for them.

    A class's cluster is expected to be labelled to the share that labelled classes are: unlabelled points beyond that are strangers.

    Args:
        clusters: (n,) cluster ids 0..n_clusters-1; the first `n_shown` belong to classes whose labels were shown.
        codes: (n,) class of points that somebody has labelled, shown or hidden; -1 elsewhere.
        hidden: (h,) the hidden classes.
        share: labelled share 0..1 of a class's points.
        n_shown, n_clusters: how many classes were shown, and how many clusters there are.
    """
    if n_clusters <= n_shown:
        return 0.0
    table = np.zeros((len(hidden), n_clusters), np.int64)
    for row, c in enumerate(hidden):
        table[row] = np.bincount(clusters[codes == c], minlength=n_clusters)
    totals, sizes = np.bincount(clusters[codes >= 0], minlength=n_clusters), np.bincount(clusters, minlength=n_clusters)
    expected = np.maximum(totals, share * sizes)
    scores = 2 * table / (table.sum(axis=1)[:, None] + expected)
    rows, columns = linear_sum_assignment(-scores[:, n_shown:])
    return float(scores[rows, n_shown + columns].sum() / len(hidden))
