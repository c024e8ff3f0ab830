"""Post-hoc logit adjustment against its formula, and the choice of its strength."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from core.losses.logit_adjustment import adjust, adjustment, choose_tau

TAUS = (0.0, 0.5, 1.0, 2.0)


@pytest.mark.parametrize("tau", TAUS)
def test_it_is_the_plain_formula(tau):
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = adjust(logits, torch.tensor([70, 20, 10]), tau).tolist()
    for row, found in zip(logits.tolist(), got, strict=True):
        assert found == pytest.approx([z - tau * math.log(pi) for z, pi in zip(row, (0.7, 0.2, 0.1), strict=True)], abs=1e-12)


def test_the_bias_is_what_adjusting_adds():
    logits, counts = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([70, 20, 10])
    torch.testing.assert_close(logits + adjustment(counts, 1.5).float(), adjust(logits, counts, 1.5))


def prior_bound(n: int = 600) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Balanced validation images under the exact posterior logits of a 50:5:1 prior: tau = 1 is then the Bayes rule."""
    generator = torch.Generator().manual_seed(0)
    labels, means = torch.arange(n) % 3, 2 * torch.eye(3)
    x = means[labels] + torch.randn(n, 3, generator=generator)
    counts = torch.tensor([50, 5, 1])
    return x @ means.T - means.square().sum(dim=1) / 2 + counts.log(), labels, counts


def test_the_chosen_tau_scores_highest_and_beats_none():
    logits, labels, counts = prior_bound()
    tau, score = choose_tau(logits, labels, counts, balanced_accuracy_score, TAUS)
    scores = {t: balanced_accuracy_score(labels, adjust(logits, counts, t).argmax(dim=1)) for t in TAUS}
    assert tau == 1.0 and score == max(scores.values()) > scores[0.0] + 0.05


def test_ties_go_to_the_smaller_tau_in_whatever_order_they_come():
    logits, labels, counts = prior_bound()
    for taus in ((2.0, 0.25, 1.0), (8.0, 1.0), (1.0, 8.0)):
        assert choose_tau(logits, labels, counts, lambda *_: 0.5, taus) == (min(taus), 0.5)


def test_the_score_receives_labels_then_predictions_as_arrays():
    seen = []
    choose_tau(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([1]), torch.tensor([1, 1, 1]), lambda *pair: seen.append(pair) or 0.0, [0.0])
    assert [(type(a), a.tolist()) for a in seen[0]] == [(np.ndarray, [1]), (np.ndarray, [0])]


def test_what_cannot_be_chosen_from_is_refused():
    logits, labels, counts = prior_bound()
    with pytest.raises(ValueError, match="600 images and 0 candidates"):
        choose_tau(logits, labels, counts, balanced_accuracy_score, [])
    with pytest.raises(ValueError, match="0 images and 1 candidates"):
        choose_tau(logits[:0], labels[:0], counts, balanced_accuracy_score, [1.0])
    with pytest.raises(ValueError, match=r"score at tau=0\.5 is not a number"):
        choose_tau(logits, labels, counts, lambda *_: math.nan, [0.5])
    with pytest.raises(ValueError, match="got 0 for class 2"):
        adjust(logits, torch.tensor([5, 1, 0]), 1.0)
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(2,\)"):
        adjust(logits, torch.tensor([5, 1]), 1.0)
