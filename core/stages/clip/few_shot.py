"""Lines beside a result for classes with few training images, or none: what the towers are worth before they have met."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from core.models.clip_sentences import class_means
from core.stages.clip.baselines import Lines, named, probe_features, scored
from core.training import precision

SHOTS = (1, 4, 16)
DRAWS = 5
GROUPS = 5
STRENGTH = 10.0  # of unit features: nothing is left over to choose it on where a class has one image
TEMPERATURE = 0.07


def lines(m: Any, model: Any, seed: int) -> Lines:
    """Return `few_shot_<k>/<part>/<metric>` and `unseen/<part>/<metric>` of the untrained image and text network."""
    features = probe_features(m, model.towers)
    return few_shot(m, features, seed) | unseen(m, features, sentence_features(m, model))


def few_shot(m: Any, features: dict[str, np.ndarray], seed: int) -> Lines:
    """Score logistic regressions on k training images of each class (all of a class that has fewer), means over DRAWS draws."""
    labels, rng = m.data.train.labels, np.random.default_rng(seed)
    found: Lines = {}
    for k in SHOTS:
        draws = []
        for _ in range(DRAWS):
            rows = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:k] for c in np.unique(labels)])
            fitted = LogisticRegression(C=STRENGTH, max_iter=1000).fit(features["train"][rows], labels[rows])
            draws.append({part: _of_classes(m, part, fitted, features[part]) for part in features if part != "train"})
        found |= named(f"few_shot_{k}", {part: _mean(draw[part] for draw in draws) for part in draws[0]})
    return found


def unseen(m: Any, features: dict[str, np.ndarray], sentences: np.ndarray) -> Lines:
    """Score classes that are known by their sentences alone, among themselves: zero-shot for towers that were trained apart.

    A regression on the images of all other classes says how much of each an image has; the same mixture of those classes' sentences is
    its place among sentences, where the nearest one of the unseen classes answers (ConSE, Norouzi et al. 2014, arXiv:1312.5650). Each of
    GROUPS groups of classes is unseen in turn; `chance` is that of a guess. {} with fewer than 4 classes.

    Args:
        sentences: (C, d) of the classes.
    """
    labels, n_classes = m.data.train.labels, len(m.data.class_names)
    n_groups = min(GROUPS, n_classes // 2)
    if n_groups < 2:
        return {}
    unit = normalize(sentences)
    by_part: dict[str, list[Lines]] = {part: [] for part in features if part != "train"}
    for first in range(n_groups):
        classes = np.arange(first, n_classes, n_groups)
        known = ~np.isin(labels, classes)
        fitted = LogisticRegression(C=STRENGTH, max_iter=1000).fit(features["train"][known], labels[known])
        for part, kept in by_part.items():
            rows = np.flatnonzero(np.isin(m.part(part).labels, classes))
            if not len(rows):
                continue
            places = normalize(fitted.predict_proba(features[part][rows]) @ unit[fitted.classes_])
            logits, truth = places @ unit[classes].T / TEMPERATURE, np.searchsorted(classes, m.part(part).labels[rows])
            names, counts = [m.data.class_names[c] for c in classes], m.data.class_counts[classes]
            kept.append(scored(truth, logits, names, counts) | {"chance": 1 / len(classes)})
    return named("unseen", {part: _mean(kept) for part, kept in by_part.items() if kept})


@torch.no_grad()
def sentence_features(m: Any, model: Any) -> np.ndarray:
    """Return the mean (C, d) of each class's sentences as the text network's body sees them, before any projection."""
    found, was_training = model.fixed_text, model.training
    if found is None:
        model.eval()
        with precision.autocast(m.device, m.number_format):
            found = model.towers.text_features(model.token_ids)
        model.train(was_training)
    return class_means(found, model.class_of, model.n_classes).cpu().numpy()


def _of_classes(m: Any, part: str, fitted: Any, features: np.ndarray) -> Lines:
    """Return the scores of a regression; a class without training images has no logit, and is never answered."""
    logits = np.full((len(features), len(m.data.class_names)), -1e9)
    logits[:, fitted.classes_] = fitted.predict_log_proba(features)
    return scored(m.part(part).labels, logits, m.data.class_names, m.data.class_counts)


def _mean(found: Iterable[Lines]) -> Lines:
    rows = list(found)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
