"""What clustering takes: checked once, before any expensive work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from core.errors import UserError
from core.finite import require_finite


class Inputs(NamedTuple):
    """features (N, d) float64; codes (N,) int64, 0..n_codes-1 in ascending order of the labels, -1 where unlabelled."""

    features: np.ndarray
    codes: np.ndarray
    n_codes: int


def checked(features: np.ndarray, labels: np.ndarray, labelled_mask: np.ndarray) -> Inputs:
    """Return the inputs in working form; labels outside the mask are never looked at. Raises UserError."""
    features = np.asarray(features)
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.number) or np.iscomplexobj(features):
        raise UserError(f"features must be a numeric array of shape (N, d), not {features.dtype} {features.shape}")
    features = features.astype(np.float64)
    n = len(features)
    require_finite(features, "the features to cluster", "extract the features again")
    if features.size and np.abs(features).max() > 1e15:
        raise UserError("features exceed 1e15; L2-normalise them first")
    mask, labels = np.asarray(labelled_mask), np.asarray(labels)
    if mask.shape != (n,) or labels.shape != (n,):
        raise UserError(f"features have {n} rows, so labels and labelled_mask need shape ({n},), not {labels.shape} and {mask.shape}")
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise UserError("labelled_mask must hold only true and false (or 1 and 0)")
    mask = mask.astype(bool)
    codes = np.full(n, -1, np.int64)
    known = _whole(labels[mask])
    names, codes[mask] = np.unique(known, return_inverse=True)
    return Inputs(features, codes, len(names))


def _whole(known: np.ndarray) -> np.ndarray:
    try:
        whole = known.astype(np.int64)
        if (whole == known).all():
            return whole
    except (TypeError, ValueError, OverflowError):
        pass
    raise UserError("labels inside labelled_mask must be integers")


def checked_ks(ks: Iterable[int], n: int) -> list[int]:
    """Return the distinct neighbour counts, ascending; UserError unless each is a whole number with 1 <= k < N."""
    ks = list(ks)
    if not ks:
        raise UserError("no k to try: k_max is below k_min?")
    for k in ks:
        if int(k) != k or k < 1:
            raise UserError(f"k must be a whole number of at least 1, not {k}")
        if k >= n:
            raise UserError(f"k = {k} needs at least {int(k) + 1} points and there are {n}; choose k < {n}")
    return sorted({int(k) for k in ks})


def checked_percentiles(percentiles: Iterable[float]) -> list[int | float]:
    """Return the distinct density percentiles, ascending, whole ones as int; UserError unless each lies in 0..100."""
    percentiles = list(percentiles)
    if not percentiles:
        raise UserError("no density percentile to try: density_max is below density_min?")
    for percentile in percentiles:
        if not 0 <= percentile <= 100:
            raise UserError(f"the density percentile must lie between 0 and 100, not {percentile}")
    return sorted({int(p) if int(p) == p else float(p) for p in percentiles})
