"""Lines beside every result: the towers before training, a linear probe of the image network, and WiSE-FT's mix of before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from torch import Tensor

from core.evaluation import classification
from core.evaluation.scorer import softmax

SHOWN = ("accuracy", "balanced_accuracy", "macro_f1", "mAP", "ece")
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
ALPHAS = tuple(np.round(np.arange(0.0, 1.01, 0.1), 1))
METRIC = "balanced_accuracy"

Lines = dict[str, float]


def shown(m: Any, part: str, logits: np.ndarray) -> Lines:
    """Return the SHOWN metrics of logits (n, C) on a part; {} where it has no images."""
    labels = getattr(m.data, part).labels
    if not len(labels):
        return {}
    return scored(labels, logits, m.data.class_names, m.data.class_counts)


def scored(labels: np.ndarray, logits: np.ndarray, class_names: Sequence[str], class_counts: np.ndarray) -> Lines:
    """Return the SHOWN metrics of logits (n, C) on labels (n,)."""
    found = classification.report(labels, softmax(logits), tuple(class_names), class_counts)
    return {name: found.metrics[name] for name in SHOWN}


def zero_shot(m: Any, model: Any) -> Lines:
    """Return `zero_shot/<part>/<metric>` of the towers as they are."""
    return named("zero_shot", {part: shown(m, part, m.logits(model, part)) for part in ("val", "test") if len(m.part(part))})


def linear_probe(m: Any, towers: Any, select_by: str, seed: int) -> Lines:
    """Return `linear_probe/<part>/<metric>` of a logistic regression on the image network's features.

    The features are centred by the training images' mean and L2-normalised; the strength of the regularisation is chosen on
    validation (without it, 1 / STRENGTHS' middle), by `select_by` where that is a metric.
    """
    features = probe_features(m, towers)
    metric = METRIC if select_by == "last" else select_by
    best: tuple[float, Any] = (-np.inf, None)
    for strength in STRENGTHS if "val" in features else (STRENGTHS[len(STRENGTHS) // 2],):
        fitted = LogisticRegression(C=strength, max_iter=1000, random_state=seed).fit(features["train"], m.data.train.labels)
        score = shown(m, "val", fitted.predict_log_proba(features["val"]))[metric] if "val" in features else 0.0
        best = max(best, (score, fitted), key=lambda found: found[0])
    lines: dict[str, Lines] = {
        part: shown(m, part, best[1].predict_log_proba(features[part])) for part in ("val", "test") if part in features
    }
    return named("linear_probe", lines) | {"linear_probe/strength": best[1].C}


def probe_features(m: Any, towers: Any) -> dict[str, np.ndarray]:
    """Return the image network's features (n, d) of each part that has images: without the training images' mean, L2-normalised."""
    found: dict[str, np.ndarray] = {part: m.features(towers, m.rows[part]) for part in ("train", "val", "test") if len(m.rows[part])}
    centre = found["train"].mean(axis=0)
    return {part: normalize(values - centre) for part, values in found.items()}


def wise_ft(m: Any, model: Any, before: Mapping[str, Tensor], select_by: str) -> Lines:
    """Return `wise_ft/alpha` and `wise_ft/<part>/<metric>` of (1 - alpha) * before + alpha * after, alpha chosen on validation.

    Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", arXiv:2109.01903, section 3. The model's weights
    are put back afterwards; whole numbers (counters) are those after training. {} without validation images.
    """
    if not len(m.part("val")):
        return {}
    metric = METRIC if select_by == "last" else select_by
    weights = model.trained_state()
    after = {name: value.clone() for name, value in weights.items()}

    def scored(alpha: float, part: str) -> Lines:
        mix(weights, before, after, alpha)
        return shown(m, part, m.logits(model, part))

    try:
        scores = {alpha: scored(alpha, "val") for alpha in ALPHAS}
        alpha = max(reversed(ALPHAS), key=lambda a: scores[a][metric])
        lines = {"val": scores[alpha], "test": scored(alpha, "test") if len(m.part("test")) else {}}
    finally:
        mix(weights, before, after, 1.0)
    return named("wise_ft", lines) | {"wise_ft/alpha": float(alpha)}


@torch.no_grad()
def mix(target: Mapping[str, Tensor], before: Mapping[str, Tensor], after: Mapping[str, Tensor], alpha: float) -> None:
    """Write (1 - alpha) * before + alpha * after into `target`; alpha 1 is `after`, bit by bit."""
    for name, value in target.items():
        if alpha == 1.0 or not value.is_floating_point():
            value.copy_(after[name])
        else:
            value.copy_(torch.lerp(before[name].to(value), after[name].to(value), alpha))


def named(line: str, parts: Mapping[str, Lines]) -> Lines:
    return {f"{line}/{part}/{name}": value for part, values in parts.items() for name, value in values.items()}


def of_training(training: Any) -> Callable[[], Lines]:
    """Return what computes the lines that need the towers before training."""

    def compute() -> Lines:
        config, m = training.config, training.m
        lines = zero_shot(m, training.task.model) if config.zero_shot else {}
        if config.linear_probe:
            lines |= linear_probe(m, training.task.model.towers, config.select_by, config.seed)
        return lines

    return compute
