"""Self-supervised contrastive loss over the views of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from core.losses._similarity import check
from core.losses.supcon import supcon


def info_nce(projections: Tensor, n_views: int, temperature: float, keep: Tensor | None = None) -> Tensor:
    """InfoNCE (van den Oord et al. 2018, arXiv:1807.03748) as GCD uses it (Vaze et al. 2022, arXiv:2201.02609, equation 1).

    Each row's positive is the other view of its sample, its contrast the other 2B-1 rows. With more than two views a row's loss
    is the mean over its V-1 positives, each against all other V*B-1 rows (the other positives included): this is SupCon with
    every sample a class of its own.

    Args:
        projections: (V*B, d), view-major; L2-normalised here.
        n_views: V, at least 2.
        temperature: divides the cosines.
        keep: (B,) bool; other samples are neither anchors nor negatives (`contrast_unlabel_only`).

    Returns:
        A scalar in float32 (float64 for float64 input); 0 with a graph when no sample is kept.

    Raises:
        ValueError: fewer than two views, shapes that do not agree, or `temperature` not above 0.

    Example:
        >>> loss = info_nce(torch.cat([view_0, view_1]), n_views=2, temperature=1.0)
    """
    if n_views < 2:
        raise ValueError(f"InfoNCE needs at least 2 views, got {n_views}")
    batch = check(projections, n_views, temperature)
    return supcon(projections, torch.arange(batch, device=projections.device), n_views, temperature, keep)
