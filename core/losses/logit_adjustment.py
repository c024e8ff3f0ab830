"""Post-hoc logit adjustment: take the training prior out of a trained classifier, by an amount chosen on validation images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor

from core.losses._counts import positive
from core.losses._similarity import full_precision


def adjustment(class_counts: Tensor, tau: float) -> Tensor:
    """Return the bias -tau * log pi_c (C,) in float64 on the CPU, pi_c = n_c / sum n: what `adjust` adds to every row.

    Raises:
        ValueError: a count that is not above 0, or counts that are not (C,).
    """
    counts = positive(class_counts)
    return -tau * (counts / counts.sum()).log()


def adjust(logits: Tensor, class_counts: Tensor, tau: float) -> Tensor:
    """Return z_c - tau * log pi_c (Menon et al. 2021, arXiv:2007.07314, equation 9), pi_c = n_c / sum n.

    Args:
        logits: z (B, C) of a classifier trained by plain cross-entropy.
        class_counts: n (C,), training images of each class.
        tau: 0 changes nothing; 1 is the Bayes rule of the balanced error if the classifier is calibrated.

    Returns:
        (B, C) in float32 (float64 for float64 logits).

    Raises:
        ValueError: a count that is not above 0, or not one count a class.

    Example:
        >>> tau, _ = choose_tau(val_logits, val_labels, class_counts, balanced_accuracy_score, [0.0, 0.5, 1.0, 1.5])
        >>> predictions = adjust(test_logits, class_counts, tau).argmax(dim=1)
    """
    positive(class_counts, logits.shape[1])
    return full_precision(logits) + adjustment(class_counts, tau).to(full_precision(logits))


def choose_tau(
    logits: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    score: Callable[[np.ndarray, np.ndarray], float],
    taus: Iterable[float],
) -> tuple[float, float]:
    """Return (tau, score) of the tau whose adjusted predictions score highest; ties go to the smaller tau.

    Args:
        logits: (B, C) of validation images: never those of the test split, whose figure would then be too good.
        labels: (B,).
        class_counts: (C,), training images of each class.
        score: score(labels, predictions), both (B,) int64 arrays; higher is better.
        taus: what to try.

    Raises:
        ValueError: no images, no tau, a score that is not a number, or bad counts (see `adjust`).
    """
    candidates = sorted({float(tau) for tau in taus})
    if not candidates or not logits.shape[0]:
        raise ValueError(f"choosing tau needs images and candidates, got {logits.shape[0]} images and {len(candidates)} candidates")
    logits, truth = logits.detach().cpu(), labels.detach().cpu().numpy()
    best = (candidates[0], -math.inf)
    for tau in candidates:
        reached = float(score(truth, adjust(logits, class_counts, tau).argmax(dim=1).numpy()))
        if math.isnan(reached):
            raise ValueError(f"the score at tau={tau:g} is not a number")
        if reached > best[1]:
            best = (tau, reached)
    return best
