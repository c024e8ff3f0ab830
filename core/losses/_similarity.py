"""What the contrastive losses share: cosine similarity in full precision, view-major rows, and a zero that keeps its graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """Return `x` in float32 (float64 stays): half-precision exponentials of similarities over 0.07 lose the small ones."""
    return x if x.dtype == torch.float64 else x.float()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosines (N, M) of rows a (N, d) and b (M, d); an all-zero row has cosine 0. Autocast does not apply inside."""
    with torch.autocast(a.device.type, enabled=False):
        return F.normalize(full_precision(a), dim=1) @ F.normalize(full_precision(b), dim=1).T


def check(projections: Tensor, n_views: int, temperature: float, n_samples: int | None = None) -> int:
    """Return the batch size B of view-major rows (V*B, d).

    Raises:
        ValueError: the rows are not V*B (with B = `n_samples` where given), or the temperature is not above 0.
    """
    if n_views < 1 or projections.ndim != 2 or projections.shape[0] % n_views:
        raise ValueError(f"rows of shape {tuple(projections.shape)} are not {n_views} views of one batch")
    batch = projections.shape[0] // n_views
    if n_samples is not None and n_samples != batch:
        raise ValueError(f"{n_samples} labels for {batch} samples ({projections.shape[0]} rows of {n_views} views)")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    return batch


def zero_with_graph(x: Tensor) -> Tensor:
    """Return a scalar 0 that depends on `x`: an empty batch still runs backward, so that processes stay in step."""
    return full_precision(x[:0]).sum()


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Return sum(w*l)/sum(w) of (N,) losses, and 0 (with its graph) when all weights are 0."""
    weights = weights.to(losses.dtype)
    return (weights * losses).sum() / weights.sum().clamp_min(torch.finfo(losses.dtype).tiny)
