"""Balanced softmax against its formula, and what it does to the optimum."""

import math

import pytest
import torch

from core.losses.balanced_softmax import balanced_softmax


def test_its_softmax_weighs_each_class_by_its_count():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = [100, 10, 1]
    got = balanced_softmax(logits, torch.tensor(counts)).softmax(dim=1)
    for row, found in zip(logits.tolist(), got.tolist(), strict=True):
        weighed = [n * math.exp(z) for n, z in zip(counts, row, strict=True)]
        assert found == pytest.approx([w / sum(weighed) for w in weighed], abs=1e-12)


def test_only_ratios_of_the_counts_count():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    one, other = (balanced_softmax(logits, k * torch.tensor([50, 5, 1])).log_softmax(dim=1) for k in (1, 7))
    torch.testing.assert_close(one, other)


def test_a_classifier_that_sees_nothing_learns_no_prior():
    labels = torch.tensor([0] * 90 + [1] * 10)
    bias = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([bias], line_search_fn="strong_wolfe", max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(balanced_softmax(bias.expand(100, 2), torch.bincount(labels)), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert (bias[0] - bias[1]).item() == pytest.approx(0, abs=1e-4)


def test_gradients_pass_and_half_precision_becomes_float32():
    logits = torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True)
    out = balanced_softmax(logits, torch.tensor([1.0, 2.0, 3.0]))
    out.sum().backward()
    assert out.dtype == torch.float32 and (logits.grad == 1).all()


@pytest.mark.parametrize(
    "counts, message",
    [([3, 0, 1], "got 0 for class 1"), ([3, 2, -1], "got -1 for class 2"), ([3, 2], r"shape \(3,\)"), ([[1, 2, 3]], r"shape \(3,\)")],
)
def test_bad_counts_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        balanced_softmax(torch.zeros(2, 3), torch.tensor(counts))
