"""Features that hold NaN or infinity are found where they arise or are read: every later number would be made of them without a word."""

from __future__ import annotations

import numpy as np

from core.errors import UserError


def require_finite(features: np.ndarray, what: str, remedy: str) -> None:
    """Raise UserError where a row of features (N, d) is not finite: `<what> hold NaN or infinity in n of N rows (...); <remedy>`."""
    rows = np.asarray(features)
    # One sum a row finds nearly all of it without a mask as large as the features.
    with np.errstate(invalid="ignore", over="ignore"):
        sums = rows.sum(axis=tuple(range(1, rows.ndim)), dtype=np.float64)
    if np.isfinite(sums).all():
        return
    bad = ~np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
    if bad.any():
        raise UserError(f"{what} hold NaN or infinity in {bad.sum()} of {len(rows)} rows (the first is {bad.argmax()}); {remedy}")
