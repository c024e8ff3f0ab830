"""Probabilities of logits, and the selection metrics against figures counted by hand."""

import numpy as np
import pytest

from core.evaluation.scorer import scorer, softmax

LABELS, PREDICTED = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 1, 0, 2])
COUNTS = np.array([40, 20, 10, 30])


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("accuracy", 5 / 7),
        ("balanced_accuracy", (3 / 4 + 1 / 2 + 1) / 3),
        ("tail_accuracy", 1.0),  # the rarest quarter of four classes is class 2
        ("macro_f1", (3 / 4 + 1 / 2 + 1) / 3),
    ],
)
def test_classes_without_samples_do_not_count(metric, value):
    assert scorer(metric, 4, COUNTS)(LABELS, PREDICTED) == pytest.approx(value)


def test_a_tail_that_has_no_sample_scores_zero():
    assert scorer("tail_accuracy", 4, COUNTS)(LABELS[:6], PREDICTED[:6]) == 0.0


def test_softmax_is_in_float64_and_bears_large_logits():
    found = softmax(np.array([[1000.0, 1000.0], [0.0, np.log(3)]], np.float32))
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.25, 0.75]], rtol=1e-6)
    assert found.dtype == np.float64
