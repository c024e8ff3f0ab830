"""Balanced softmax: training logits that carry the class prior, so that the network itself does not learn it."""

from __future__ import annotations

from torch import Tensor

from core.losses._counts import positive
from core.losses._similarity import full_precision


def balanced_softmax(logits: Tensor, class_counts: Tensor) -> Tensor:
    """Return z_c + log n_c (Ren et al. 2020, arXiv:2007.10740, theorem 1), for training; evaluation takes z itself.

    Any cross-entropy may follow: softmax(z + log n) is n_c * exp(z_c) / sum_j n_j * exp(z_j).

    Args:
        logits: z (B, C).
        class_counts: n (C,), training images of each class; only their ratios count.

    Returns:
        (B, C) in float32 (float64 for float64 logits).

    Raises:
        ValueError: a count that is not above 0, or not one count a class.

    Example:
        >>> loss = soft_cross_entropy(balanced_softmax(logits, class_counts), targets)
    """
    return full_precision(logits) + positive(class_counts, logits.shape[1]).log().to(full_precision(logits))
