"""The probe tells separable classes apart, balances rare ones, and chooses its strength on validation only."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, recall_score

from core.evaluation import linear_probe


def blobs(counts: tuple[int, ...], seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = np.random.default_rng(7).normal(size=(len(counts), 6)) * 3
    return centres[labels] + rng.normal(size=(len(labels), 6)) * spread, labels


def test_separable_classes_are_told_apart():
    train, val = blobs((30, 30, 30), 0, 0.1), blobs((10, 10, 10), 1, 0.1)
    probe = linear_probe.fit(*train, *val, accuracy_score)
    assert probe.probabilities(val[0], 3).argmax(axis=1).tolist() == val[1].tolist()


def test_rare_classes_weigh_as_much_as_frequent_ones():
    train, val = blobs((300, 6), 0, 4.0), blobs((100, 100), 1, 4.0)
    probe = linear_probe.fit(*train, *val, accuracy_score, (1.0,))
    mean = train[0].mean(axis=0)
    plain = LogisticRegression().fit(linear_probe.prepared(train[0], mean), train[1])
    rare = val[1] == 1
    found = probe.probabilities(val[0], 2).argmax(axis=1)[rare].mean()
    assert found > plain.predict(linear_probe.prepared(val[0], mean))[rare].mean() + 0.2


def test_the_strength_is_the_best_on_validation_and_the_weaker_on_ties():
    train, val = blobs((40, 40), 0, 3.0), blobs((40, 40), 1, 3.0)
    scores = {}
    for strength in (0.001, 0.1, 10.0):
        one = linear_probe.fit(*train, *val, accuracy_score, (strength,))
        scores[strength] = recall_score(val[1], one.probabilities(val[0], 2).argmax(axis=1), average="macro")
    chosen = linear_probe.fit(*train, *val, lambda *pair: recall_score(*pair, average="macro"), tuple(scores)).strength
    assert scores[chosen] == max(scores.values()) and chosen == min(s for s in scores if scores[s] == max(scores.values()))
    assert linear_probe.fit(*train, *val, lambda *pair: 0.5, (10.0, 0.1)).strength == 0.1


def test_without_validation_the_middle_strength_is_taken():
    train = blobs((20, 20), 0)
    empty = np.zeros((0, 6)), np.zeros(0, np.int64)
    assert linear_probe.fit(*train, *empty, accuracy_score, (0.1, 1.0, 10.0)).strength == 1.0


def test_a_class_without_training_features_has_probability_zero():
    features, labels = blobs((20, 0, 20), 0)
    probe = linear_probe.fit(features, labels, features, labels, accuracy_score)
    found = probe.probabilities(features, 3)
    assert found.shape == (40, 3) and not found[:, 1].any() and np.allclose(found.sum(axis=1), 1)
