"""Supervised contrastive loss."""

from __future__ import annotations

import torch
from torch import Tensor

from core.losses._similarity import check, cosine, full_precision, weighted_mean, zero_with_graph


def supcon(
    projections: Tensor,
    labels: Tensor,
    n_views: int,
    temperature: float = 0.07,
    keep: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """L_out^sup of Khosla et al. 2020 (arXiv:2004.11362), equation 2, with per-sample weights.

    For a row i with positives P(i) (other rows of the same label, its own other views among them)

        l_i = -1/|P(i)| * sum_{p in P(i)} log( exp(z_i.z_p / t) / sum_{a != i} exp(z_i.z_a / t) ),   L = sum_i w_i l_i / sum_i w_i.

    The factor t/t_base of the authors' code is 1. Rows without a positive (one view, alone in its class) do not count.

    Args:
        projections: (V*B, d), all samples of view 0, then of view 1, ...; L2-normalised here.
        labels: (B,) integers; a negative label means 'none' and leaves the sample out.
        n_views: V.
        temperature: t.
        keep: (B,) bool; other samples are neither anchors nor negatives.
        weights: (B,) not negative; each sample's weight holds for all its views.

    Returns:
        A scalar in float32 (float64 for float64 input); 0 with a graph when no row counts.

    Raises:
        ValueError: shapes do not agree, or `temperature` is not above 0.

    Example:
        >>> loss = supcon(torch.cat([view_0, view_1]), labels, n_views=2)
    """
    check(projections, n_views, temperature, labels.shape[0])
    kept = labels >= 0 if keep is None else keep.bool() & (labels >= 0)
    rows = kept.repeat(n_views)
    z, y = projections[rows], labels.repeat(n_views)[rows]
    if z.shape[0] < 2:
        return zero_with_graph(projections)
    w = torch.ones_like(z[:, 0]) if weights is None else weights.repeat(n_views)[rows]
    itself = torch.eye(z.shape[0], dtype=torch.bool, device=z.device)
    logits = (cosine(z, z) / temperature).masked_fill(itself, -torch.inf)
    log_prob = (logits - logits.logsumexp(dim=1, keepdim=True)).masked_fill(itself, 0.0)
    positive = (y[:, None] == y[None, :]) & ~itself
    count = positive.sum(dim=1)
    losses = -(log_prob * positive).sum(dim=1) / count.clamp_min(1)
    return weighted_mean(losses, full_precision(w) * (count > 0))
