"""Cross-entropy against soft targets, with class weights and a focal exponent for each class."""

from __future__ import annotations

import torch
from torch import Tensor

from core.losses._similarity import full_precision


def soft_cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None = None, gammas: Tensor | None = None) -> Tensor:
    """Cross-entropy of soft targets with a focal factor (Lin et al. 2017, arXiv:1708.02002, equations 4 and 5) for each class.

    With p = softmax(z):  L = 1/B * sum_i sum_c -t_ic * w_c * (1 - p_ic)^gamma_c * log p_ic, one mean over the whole batch.

    Equal gammas are the focal loss, gammas above 0 for the rare classes only the tail focal loss, gammas of 0 cross-entropy.
    The mean divides by B and not by the sum of the samples' weights, as PyTorch's cross-entropy does for soft targets.

    Args:
        logits: z (B, C).
        targets: t (B, C), each row a distribution: one-hot, smoothed or mixed.
        class_weights: w (C,), not negative; None is 1 for all.
        gammas: gamma (C,), not negative; None is 0 for all.

    Returns:
        A scalar in float32 (float64 for float64 logits); 0 with a graph for an empty batch.

    Raises:
        ValueError: shapes do not agree.

    Example:
        >>> targets = smooth(F.one_hot(labels, 61), 0.05)
        >>> loss = soft_cross_entropy(model(images)["label"], targets, gammas=torch.full((61,), 1.5))
    """
    if logits.ndim != 2 or targets.shape != logits.shape:
        raise ValueError(f"targets of shape {tuple(targets.shape)} do not fit logits (B, C) of shape {tuple(logits.shape)}")
    for name, per_class in (("class_weights", class_weights), ("gammas", gammas)):
        if per_class is not None and per_class.shape != logits.shape[1:]:
            raise ValueError(f"{name} must have shape ({logits.shape[1]},), got {tuple(per_class.shape)}")
    log_p = full_precision(logits).log_softmax(dim=1)
    weights = targets.to(log_p.dtype)
    if class_weights is not None:
        weights = weights * class_weights.to(log_p)
    if gammas is not None:
        weights = weights * _miss(log_p) ** gammas.to(log_p)
    return -(weights * log_p).sum() / max(logits.shape[0], 1)


def _miss(log_p: Tensor) -> Tensor:
    """Return 1 - p, kept off 0: there the slope of a power below 1 is infinite, and infinity times the factor log p = 0 is no number."""
    return (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)


def smooth(targets: Tensor, smoothing: float) -> Tensor:
    """Label smoothing (Szegedy et al. 2016, arXiv:1512.00567, section 7): t * (1 - s) + s / C.

    Args:
        targets: t (B, C), rows that sum to 1.
        smoothing: s in 0..1; 0 changes nothing.

    Returns:
        (B, C) in float32 (float64 for float64 targets); rows still sum to 1.

    Raises:
        ValueError: `smoothing` is outside 0..1.
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be in 0..1, got {smoothing}")
    targets = full_precision(targets)
    return targets * (1 - smoothing) + smoothing / targets.shape[1] if smoothing else targets
