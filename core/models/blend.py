"""Several classifiers' probabilities as one: a pool of their logarithms whose weights are fitted on predictions out of fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

_SMALLEST = 1e-12
# How far the classes' sizes are corrected for: class c counts n_c^-t a post. 1 weighs all classes alike.
BALANCES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Blend:
    """p ~ exp(sum_m w_m log p_m + b), a logarithmic opinion pool (Genest and Zidek 1986) with an offset for each class.

    Example:
        >>> blend = Blend.fit(out_of_fold, labels, lambda found: macro_f1(labels, found))
        >>> blend.probabilities(np.stack([by_towers, by_ngrams])).shape
        (400, 3)
    """

    weights: np.ndarray
    """(M,) of each member, none below 0."""
    offsets: np.ndarray
    """(C,) with mean 0."""

    @classmethod
    def fit(cls, probabilities: np.ndarray, labels: np.ndarray, score: Callable[[np.ndarray], float]) -> Blend:
        """Minimise the weighted negative log-likelihood of members' probabilities (M, N, C) on labels (N,), for each of BALANCES.

        Taken is the balance whose blend has the highest `score` of its probabilities (N, C), of equals the first: 5 numbers are
        compared, and M + C fitted, on N posts that no member had seen.
        """
        fitted = [cls._of_balance(probabilities, labels, balance) for balance in BALANCES]
        return max(fitted, key=lambda blend: score(blend.probabilities(probabilities)))

    @classmethod
    def _of_balance(cls, probabilities: np.ndarray, labels: np.ndarray, balance: float) -> Blend:
        logs, n_classes = _logs(probabilities), probabilities.shape[2]
        counts = np.bincount(labels, minlength=n_classes)
        shares = np.maximum(counts, 1.0)[labels] ** -balance
        shares /= shares.sum()
        truth = np.eye(n_classes)[labels]

        def loss(given: np.ndarray) -> tuple[float, np.ndarray]:
            weights, offsets = given[: len(logs)], given[len(logs) :]
            log_p = log_softmax(np.tensordot(weights, logs, 1) + offsets, axis=1)
            error = shares[:, None] * (np.exp(log_p) - truth)
            slopes = np.concatenate([np.tensordot(logs, error, ((1, 2), (0, 1))), error.sum(axis=0)])
            return float(-(shares[:, None] * truth * log_p).sum()), slopes

        start = np.concatenate([np.full(len(logs), 1 / len(logs)), np.zeros(n_classes)])
        bounds = [(0.0, None)] * len(logs) + [(None, None)] * n_classes
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
        offsets = found[len(logs) :]
        return cls(found[: len(logs)], offsets - offsets.mean())

    def probabilities(self, probabilities: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Return (N, C) float64 of members' probabilities (M, N, C)."""
        return softmax(np.tensordot(self.weights, _logs(np.asarray(probabilities)), 1) + self.offsets, axis=1)


def _logs(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities.astype(np.float64), _SMALLEST))
