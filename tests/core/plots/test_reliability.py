"""The reliability diagram shows what `calibration` measures."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import UserError
from core.evaluation.classification import calibration
from core.plots.reliability import reliability


def outputs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 4, 300), rng.normal(0, 1, (300, 4))
    logits[np.arange(300), labels] += 1
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n_bins", [5, 15])
def test_bars_gaps_histogram_and_error(n_bins):
    labels, probabilities = outputs()
    bins = calibration(labels, probabilities, n_bins)
    upper, lower = reliability(labels, probabilities, n_bins).axes
    full = bins.counts > 0
    accuracy, gap = (container.patches for container in upper.containers)
    np.testing.assert_allclose([bar.get_x() for bar in accuracy], np.flatnonzero(full) / n_bins)
    np.testing.assert_allclose([bar.get_height() for bar in accuracy], bins.accuracy[full])
    np.testing.assert_allclose([bar.get_y() + bar.get_height() for bar in gap], bins.confidence[full])
    np.testing.assert_allclose([bar.get_height() for bar in lower.containers[0].patches], bins.counts / 300)
    np.testing.assert_allclose([bar.get_width() for bar in accuracy], 1 / n_bins)
    assert upper.get_title() == f"expected calibration error {bins.ece:.3f} ({n_bins} bins, 300 images)"


def test_the_means_are_accuracy_and_confidence():
    labels, probabilities = outputs()
    lower = reliability(labels, probabilities).axes[1]
    means = [line.get_xdata()[0] for line in lower.lines]
    assert means == pytest.approx([probabilities.max(axis=1).mean(), np.mean(probabilities.argmax(axis=1) == labels)])


def test_nothing_evaluated_is_a_users_mistake():
    with pytest.raises(UserError, match="no images to evaluate"):
        reliability(np.zeros(0, np.int64), np.zeros((0, 3)))
