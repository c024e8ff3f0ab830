"""Facts of clusters in closed form."""

import numpy as np

from core.evaluation import answer_facts
from tests.core.evaluation.answers import blobs


def test_clear_blobs_come_again_and_noise_does_not():
    features, truth = blobs((60, 50, 40))
    noise = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    assert answer_facts.stability(features, 3, 0) > 0.99
    assert answer_facts.stability(noise, 3, 0) < 0.5
    assert answer_facts.sampled_silhouette(features, truth, 0) > 0.5


def test_what_cannot_be_said_is_none():
    features, truth = blobs((5, 5))
    assert answer_facts.stability(features, 1, 0) is None and answer_facts.stability(features, 3, 0) is None
    assert answer_facts.sampled_silhouette(features, np.zeros(10, int), 0) is None
    assert answer_facts.held_out_shares(features, features[:2], np.full(10, -1), 0.1) is None
    assert answer_facts.held_out_shares(features, features[:1], truth, 0.1) is None


def test_purity_is_what_held_out_images_of_a_cluster_say():
    clusters, wanted = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 1, 1, 0, 1])
    assert answer_facts.expected_purity(clusters, wanted, 2, 3) == [2 / 3, 1.0, None]
    assert answer_facts.expected_purity(clusters[:0], wanted[:0], 2, 3) == [None, None, None]


def test_shares_are_of_the_images_whose_class_has_a_cluster():
    features, truth = blobs((5, 5))
    labels, shares = answer_facts.held_out_shares(features, np.eye(16)[:2], np.where(np.arange(10) < 9, truth, -1), 0.1)
    assert labels.tolist() == [0] * 5 + [1] * 4 and shares.argmax(axis=1).tolist() == labels.tolist()
