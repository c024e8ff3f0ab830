"""The reference line of every classifier: logistic regression on frozen features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from core.evaluation.features import normalise

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
MAX_ITER = 2000


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
        model: scikit-learn's logistic regression.
        mean: (d,) what centres the features.
        strength: the inverse regularisation that was chosen.
    """

    model: LogisticRegression
    mean: np.ndarray
    strength: float

    def probabilities(self, features: np.ndarray, n_classes: int) -> np.ndarray:
        """Return (N, C) float64 of features (N, d); 0 for classes that the probe has never seen."""
        found = np.zeros((len(features), n_classes))
        found[:, self.model.classes_] = self.model.predict_proba(prepared(features, self.mean))
        return found


def prepared(features: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return features (N, d) centred by the training mean and scaled to unit length."""
    return normalise(np.asarray(features, np.float64) - mean)


def fit(
    train: np.ndarray,
    labels: np.ndarray,
    val: np.ndarray,
    val_labels: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], float],
    strengths: Sequence[float] = STRENGTHS,
) -> LinearProbe:
    """Fit a class-balanced logistic regression to features (N, d), its strength chosen on validation features.

    Args:
        train, labels: (N, d) and (N,).
        val, val_labels: (M, d) and (M,); without any, the middle strength is taken.
        score: score(labels, predictions), higher is better; ties go to the stronger regularisation.
        strengths: what to try, scikit-learn's C.
    """
    mean = np.asarray(train, np.float64).mean(axis=0)

    def fitted(strength: float) -> LinearProbe:
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=MAX_ITER)
        return LinearProbe(model.fit(prepared(train, mean), labels), mean, float(strength))

    if not len(val):
        return fitted(float(np.median(strengths)))
    # max keeps the first of equals, which is the stronger regularisation
    return max(map(fitted, sorted(strengths)), key=lambda probe: score(val_labels, probe.model.predict(prepared(val, mean))))
