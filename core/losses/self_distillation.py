"""Self-distillation of class assignments: each view's sharpened assignment teaches the other views, kept from collapsing by entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.losses._similarity import check, full_precision, zero_with_graph


def self_distillation(
    cosines: Tensor, n_views: int = 2, temperature: float = 0.1, teacher_temperature: float = 0.05, entropy_weight: float = 1.0
) -> Tensor:
    """Return the unsupervised loss of SimGCD's classifier (Wen et al. 2023, arXiv:2211.11727, section 3.2, equations 5 and 6).

    p_v = softmax(s_v / t), q_v = softmax(s_v / t'), without gradient, t' < t.
    L = mean_{u != v} H(q_u, p_v) - e * H(mean of all p_v): views agree, and the assignments spread over the classes.

    Args:
        cosines: s (V*B, K) of features and prototypes, view-major.
        n_views: V, at least 2.
        temperature: t. teacher_temperature: t'. entropy_weight: e.

    Returns:
        A scalar in float32 (float64 for float64 input); 0 with a graph where there is no class or no sample.

    Raises:
        ValueError: the rows are not V views of one batch, or a temperature is not above 0.
    """
    check(cosines, n_views, temperature)
    if teacher_temperature <= 0:
        raise ValueError(f"teacher_temperature must be above 0, got {teacher_temperature}")
    if not cosines.numel():
        return zero_with_graph(cosines)
    similarity = full_precision(cosines)
    log_p = F.log_softmax(similarity / temperature, dim=1).view(n_views, -1, similarity.shape[1])
    q = F.softmax(similarity.detach() / teacher_temperature, dim=1).view_as(log_p)
    # Sum over u != v as (all pairs) - (same view).
    crossed = (q.sum(dim=0) * log_p.sum(dim=0)).sum() - (q * log_p).sum()
    distilled = -crossed / (n_views * (n_views - 1) * log_p.shape[1])
    mean = log_p.exp().mean(dim=(0, 1))
    negative_entropy: Tensor = torch.special.xlogy(mean, mean).sum()
    return distilled + entropy_weight * negative_entropy
