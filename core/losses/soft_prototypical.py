"""Self-distillation towards prototypes: each view's sharpened assignment teaches the other views, kept from collapsing by entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.losses._similarity import check, cosine, zero_with_graph


def soft_prototypical(
    features: Tensor, prototypes: Tensor, n_views: int = 2, temperature: float = 0.1, teacher_temperature: float = 0.05
) -> Tensor:
    """Self-distillation of prototype assignments (after SimGCD, Wen et al. 2023, arXiv:2211.11727, section 3.2, with fixed prototypes).

    p_v = softmax(cos(z_v, c) / t), q_v = softmax(cos(z_v, c) / t'), without gradient, t' < t.
    L = mean_{u != v} H(q_u, p_v) - H(mean of all p_v): views agree, and the assignments spread over the prototypes.

    Args:
        features: (V*B, d) view-major; L2-normalised here.
        prototypes: (K, d); an all-zero row is an empty class and is never assigned.
        n_views: V, at least 2.
        temperature: t. teacher_temperature: t'.

    Returns:
        A scalar in float32 (float64 for float64 input); 0 with a graph where no prototype is filled or there are no features.

    Raises:
        ValueError: shapes do not agree or a temperature is not above 0.
    """
    check(features, n_views, temperature, features.shape[0] // max(n_views, 1))
    if teacher_temperature <= 0:
        raise ValueError(f"teacher_temperature must be above 0, got {teacher_temperature}")
    filled = prototypes.detach().abs().sum(dim=1) > 0
    if not bool(filled.any()) or not len(features):
        return zero_with_graph(features)
    similarity = cosine(features, prototypes[filled])
    log_p = F.log_softmax(similarity / temperature, dim=1).view(n_views, -1, similarity.shape[1])
    q = F.softmax(similarity.detach() / teacher_temperature, dim=1).view_as(log_p)
    # Sum over u != v as (all pairs) - (same view).
    crossed = (q.sum(dim=0) * log_p.sum(dim=0)).sum() - (q * log_p).sum()
    distilled = -crossed / (n_views * (n_views - 1) * log_p.shape[1])
    mean = log_p.exp().mean(dim=(0, 1))
    negative_entropy: Tensor = torch.special.xlogy(mean, mean).sum()
    return distilled + negative_entropy
