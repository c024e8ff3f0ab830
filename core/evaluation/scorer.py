"""Probabilities of logits, and the selection metrics as functions of labels and predictions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import softmax as scipy_softmax
from sklearn.metrics import accuracy_score, f1_score, recall_score

from core.data.classification import tail_classes

Score = Callable[[np.ndarray, np.ndarray], float]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return float64 probabilities (N, C) of logits."""
    probabilities: np.ndarray = scipy_softmax(np.asarray(logits, np.float64), axis=1)
    return probabilities


def scorer(metric: str, n_classes: int, class_counts: np.ndarray) -> Score:
    """Return score(labels, predictions) of a selection metric; classes without samples do not count."""
    tail = tail_classes(class_counts)

    def recalls(labels: np.ndarray, predicted: np.ndarray, among: np.ndarray) -> float:
        present = np.intersect1d(among, labels)
        return float(recall_score(labels, predicted, labels=present, average="macro", zero_division=0)) if len(present) else 0.0

    scores: dict[str, Score] = {
        "accuracy": lambda labels, predicted: float(accuracy_score(labels, predicted)),
        "balanced_accuracy": lambda labels, predicted: recalls(labels, predicted, np.arange(n_classes)),
        "tail_accuracy": lambda labels, predicted: recalls(labels, predicted, tail),
        "macro_f1": lambda labels, predicted: float(
            f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
        ),
    }
    return scores[metric]
