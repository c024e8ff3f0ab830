"""Blends of probabilities: what is right gets the weight, what is noise gets none, and the balance is chosen by the score."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from core.evaluation.scorer import scorer
from core.models.blend import Blend

COUNTS = np.array([30, 10, 60])


def drawn(seed: int = 0, n: int = 2000):
    """Return labels and the probabilities (3, n, 3) of a good member, a weaker one that sees something else, and noise."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=COUNTS / 100)
    truth = np.eye(3)[labels]
    return labels, np.stack([softmax(strength * truth + rng.normal(size=(n, 3)), axis=1) for strength in (2.0, 1.0, 0.0)])


def score(labels, metric="macro_f1"):
    found = scorer(metric, 3, COUNTS)
    return lambda probabilities: found(labels, probabilities.argmax(axis=1))


def test_weights_follow_what_members_know():
    labels, members = drawn()
    blend = Blend.fit(members, labels, score(labels, "accuracy"))
    assert blend.weights[0] > blend.weights[1] > 0.3 and blend.weights[2] < 0.1 and (blend.weights >= 0).all()
    assert blend.offsets.mean() == pytest.approx(0, abs=1e-12)
    fresh, unseen = drawn(seed=1)
    found = blend.probabilities(unseen)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    alone = [score(fresh, "accuracy")(member) for member in unseen]
    assert score(fresh, "accuracy")(found) > max(alone) + 0.02


def test_one_member_that_is_right_about_its_chances_stays_as_it_is():
    rng = np.random.default_rng(0)
    member = softmax(rng.normal(size=(6000, 3)), axis=1)
    labels = (member.cumsum(axis=1) > rng.random((6000, 1))).argmax(axis=1)
    blend = Blend._of_balance(member[None], labels, 0.0)
    assert blend.weights == pytest.approx([1], abs=0.06) and blend.offsets == pytest.approx(np.zeros(3), abs=0.06)


def test_a_full_balance_takes_the_classes_sizes_out():
    labels, members = drawn()
    plain, balanced = (Blend._of_balance(members[:1], labels, balance) for balance in (0.0, 1.0))
    moved = balanced.offsets - plain.offsets
    np.testing.assert_allclose(moved, -np.log(np.bincount(labels)) + np.log(np.bincount(labels)).mean(), atol=0.1)


def test_the_balance_is_the_one_that_scores_best():
    labels, members = drawn()
    every = [Blend._of_balance(members, labels, balance) for balance in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for metric in ("macro_f1", "balanced_accuracy", "accuracy"):
        judge = score(labels, metric)
        scores = [judge(blend.probabilities(members)) for blend in every]
        assert judge(Blend.fit(members, labels, judge).probabilities(members)) == max(scores)
    assert scores.index(max(scores)) == 0, "accuracy wants no balance"


def test_probabilities_of_zero_are_survived():
    blend = Blend(np.array([0.5, 0.5]), np.zeros(3))
    found = blend.probabilities([np.array([[1.0, 0.0, 0.0]]), np.array([[0.2, 0.3, 0.5]])])
    assert np.isfinite(found).all() and found.argmax() == 0 and blend.probabilities(np.zeros((2, 0, 3))).shape == (0, 3)
