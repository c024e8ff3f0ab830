"""The temperature makes confidences tell how often they are right; margins and shares are those of the plain formula."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clustering.kmeans import confidences
from core.evaluation import confidence
from core.evaluation.classification import calibration


def drawn(temperature, n=4000, k=5, d=8, seed=0):
    """Return features, centres and labels that are drawn from the shares at this temperature."""
    rng = np.random.default_rng(seed)
    features, centres = (rng.normal(size=(m, d)) for m in (n, k))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    shares = confidences(features, centres, temperature)
    return features, centres, (rng.random(n)[:, None] < shares.cumsum(axis=1)).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.02, 0.1, 0.5])
def test_the_temperature_that_labels_were_drawn_at_is_found_and_calibrates(temperature):
    features, centres, labels = drawn(temperature)
    found = confidence.fit_temperature(features, centres, labels)
    assert found == pytest.approx(temperature, rel=0.15)
    assert calibration(labels, confidences(features, centres, found)).ece < 0.02
    assert calibration(labels, confidences(features, centres, temperature * 5)).ece > 0.05


@pytest.mark.parametrize("k", [1, 3])
def test_too_few_held_out_images_or_one_cluster_leave_the_default(k):
    features, centres, labels = drawn(0.02, n=19 if k > 1 else 100, k=k)
    assert confidence.fit_temperature(features, centres, labels) == confidence.DEFAULT_TEMPERATURE
    assert confidence.fit_temperature(features[:0], centres, labels[:0]) == confidence.DEFAULT_TEMPERATURE


def test_images_whose_class_has_no_cluster_do_not_count():
    features, centres, labels = drawn(0.1, n=200)
    more = np.concatenate([labels, np.full(200, -1)])
    assert confidence.fit_temperature(np.concatenate([features, -features]), centres, more) == confidence.fit_temperature(
        features, centres, labels
    )


def test_answers_that_are_all_right_leave_the_temperature_near_the_default():
    features, centres = np.eye(4)[np.arange(20) % 4], np.eye(4)
    found = confidence.fit_temperature(features, centres, np.arange(20) % 4)
    assert found == pytest.approx(confidence.DEFAULT_TEMPERATURE, rel=0.1)


def test_wrong_answers_make_everything_less_certain():
    features, centres = np.eye(4)[np.arange(40) % 4], np.eye(4)
    labels = np.where(np.arange(40) < 30, np.arange(40) % 4, (np.arange(40) + 1) % 4)
    found = confidence.fit_temperature(features, centres, labels)
    assert np.allclose(confidences(features, centres, found).max(axis=1), 0.75, atol=0.03)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(2, 6), st.integers(1, 30), st.sampled_from([3, 4096]))
def test_shares_and_margins_are_those_of_the_softmax(seed, k, n, rows):
    rng = np.random.default_rng(seed)
    features, centres, clusters = rng.normal(size=(n, 3)), rng.normal(size=(k, 3)), rng.integers(0, k, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confidence, "_ROWS", rows)
        share, margin = confidence.standing(features, centres, clusters, 0.3)
    for i in range(n):
        logits = np.exp([-((features[i] - centre) ** 2).sum() / 0.6 for centre in centres])
        plain = logits / logits.sum()
        assert share[i] == pytest.approx(plain[clusters[i]])
        assert margin[i] == pytest.approx(max(0.0, plain[clusters[i]] - np.delete(plain, clusters[i]).max()), abs=1e-9)


def test_with_one_cluster_all_is_certain():
    share, margin = confidence.standing(np.eye(3), np.ones((1, 3)), np.zeros(3, int), 0.1)
    assert share.tolist() == margin.tolist() == [1.0] * 3
