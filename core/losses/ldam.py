"""Label-distribution-aware margins, and the class weights of deferred re-weighting."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.losses._counts import positive
from core.losses._similarity import full_precision


def ldam_margins(class_counts: Tensor, max_margin: float = 0.5) -> Tensor:
    """Return the margins m_c = max_margin * (n_c / min n)^(-1/4) (C,) in float64 on the CPU: the rarest class has `max_margin`.

    Raises:
        ValueError: a count or `max_margin` that is not above 0, or counts that are not (C,).
    """
    if not max_margin > 0:
        raise ValueError(f"max_margin must be above 0, got {max_margin}")
    counts = positive(class_counts)
    return max_margin * (counts / counts.min()) ** -0.25


def ldam_logits(logits: Tensor, targets: Tensor, class_counts: Tensor, max_margin: float = 0.5, scale: float = 30.0) -> Tensor:
    """Return z_ic - scale * m_c * t_ic (Cao et al. 2019, arXiv:1906.07413, section 3.2), m_c ~ n_c^(-1/4), for training.

    The margins are meant for cosines. A cosine head gives z = scale * cos, so that this is scale * (cos - m_c) for the class of a
    sample and scale * cos for the others, as in the paper's code; evaluation takes z itself. Logits of a plain linear head are on
    no fixed scale; scale 1 then gives margins in units of the logits.

    Args:
        logits: z (B, C), already multiplied by the head's own scale.
        targets: t (B, C), one-hot; of a soft target each class gives up its margin times its share.
        class_counts: n (C,), training images of each class.
        max_margin: margin of the rarest class, in units of the cosine.
        scale: the cosine head's scale.

    Returns:
        (B, C) in float32 (float64 for float64 logits).

    Raises:
        ValueError: shapes do not agree, or a count or `max_margin` that is not above 0.

    Example:
        >>> weights = effective_number_weights(class_counts) if epoch >= drw_epoch else None
        >>> loss = soft_cross_entropy(ldam_logits(logits, targets, class_counts), targets, weights)
    """
    if logits.ndim != 2 or targets.shape != logits.shape:
        raise ValueError(f"targets of shape {tuple(targets.shape)} do not fit logits (B, C) of shape {tuple(logits.shape)}")
    positive(class_counts, logits.shape[1])
    z = full_precision(logits)
    return z - (scale * ldam_margins(class_counts, max_margin)).to(z) * targets.to(z)


def effective_number_weights(class_counts: Tensor, beta: float = 0.9999) -> Tensor:
    """Class weights (1 - beta) / (1 - beta^n_c) (Cui et al. 2019, arXiv:1901.05555, section 4), divided by their mean.

    LDAM's deferred re-weighting (Cao et al. 2019, section 3.3) turns them on late in training, when the features are learnt.

    Args:
        class_counts: n (C,), training images of each class.
        beta: in [0, 1); 0 weights all classes alike, towards 1 the weights approach 1/n_c.

    Returns:
        (C,) in float32 (float64 for float64 counts), of mean 1, on the device of `class_counts`.

    Raises:
        ValueError: a count that is not above 0, counts that are not (C,), or `beta` outside [0, 1).
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}")
    log_beta = math.log(beta) if beta else -math.inf
    weights = -1 / torch.expm1(positive(class_counts) * log_beta)
    dtype = torch.float64 if class_counts.dtype == torch.float64 else torch.float32
    return (weights / weights.mean()).to(class_counts.device, dtype)
