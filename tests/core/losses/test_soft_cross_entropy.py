"""Soft cross-entropy, its focal factor and label smoothing against the plain formula and PyTorch."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses.soft_cross_entropy import smooth, soft_cross_entropy


def batch(n: int = 5, n_classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, n_classes, generator=generator, dtype=torch.float64)
    return logits, torch.rand(n, n_classes, generator=generator, dtype=torch.float64).softmax(dim=1)


def plain(logits, targets, weights, gammas) -> float:
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        norm = sum(math.exp(z) for z in row)
        for c, z in enumerate(row):
            p = math.exp(z) / norm
            total -= target[c] * weights[c] * (1 - p) ** gammas[c] * math.log(p)
    return total / len(logits)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.floats(0, 5), st.sampled_from([0.0, 0.5, 1.0, 1.5, 3.0])), min_size=2, max_size=5),
    st.integers(0, 99),
)
def test_it_is_the_plain_formula(n, per_class, seed):
    logits, targets = batch(n, len(per_class), seed)
    weights, gammas = (torch.tensor(column, dtype=torch.float64) for column in zip(*per_class, strict=True))
    got = soft_cross_entropy(logits, targets, weights, gammas)
    assert got.item() == pytest.approx(plain(logits.tolist(), targets.tolist(), weights.tolist(), gammas.tolist()), abs=1e-9)


@pytest.mark.parametrize("gammas", [None, torch.zeros(4)])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.1, 2.0, 1.0, 0.0])])
def test_without_gammas_it_is_pytorchs_cross_entropy(weights, gammas):
    logits, targets = (x.float() for x in batch())
    torch.testing.assert_close(soft_cross_entropy(logits, targets, weights, gammas), F.cross_entropy(logits, targets, weights))


def test_one_hot_targets_are_labels():
    logits, labels = batch()[0], torch.tensor([0, 3, 1, 1, 2])
    torch.testing.assert_close(soft_cross_entropy(logits, F.one_hot(labels, 4)), F.cross_entropy(logits, labels))


def test_a_gamma_of_the_tail_changes_only_the_tails_samples():
    logits, one_hot = batch(2)[0], F.one_hot(torch.tensor([0, 3]), 4)
    gammas = torch.tensor([0.0, 0.0, 0.0, 1.5])
    head, tail = (soft_cross_entropy(logits[i : i + 1], one_hot[i : i + 1], gammas=gammas) for i in (0, 1))
    torch.testing.assert_close(head, F.cross_entropy(logits[:1], torch.tensor([0])))
    p = logits[1].softmax(dim=0)[3]
    torch.testing.assert_close(tail, -((1 - p) ** 1.5) * p.log())
    torch.testing.assert_close(soft_cross_entropy(logits, one_hot, gammas=gammas), (head + tail) / 2)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_gradient_is_right_and_finite_even_at_certainty(gamma):
    logits, targets = batch(3)
    gammas = torch.full((4,), gamma, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: soft_cross_entropy(z, targets, gammas=gammas), (logits.requires_grad_(),))
    certain = torch.tensor([[200.0, 0.0], [0.0, 200.0], [20.0, 0.0]], requires_grad=True)
    soft_cross_entropy(certain, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.9, 0.1]]), gammas=torch.full((2,), gamma)).backward()
    assert certain.grad.isfinite().all() and certain.grad[1].abs().sum() > 0


def test_half_precision_logits_are_summed_in_float32():
    logits, targets = batch()
    got = soft_cross_entropy(logits.bfloat16(), targets, gammas=torch.ones(4))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, soft_cross_entropy(logits.bfloat16().float(), targets.float(), gammas=torch.ones(4)))


def test_an_empty_batch_gives_zero_with_a_graph():
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = soft_cross_entropy(logits, torch.zeros(0, 3))
    loss.backward()
    assert loss.item() == 0 and logits.grad.shape == (0, 3)


def test_shapes_that_do_not_fit_are_refused():
    logits, targets = batch()
    with pytest.raises(ValueError, match=r"targets of shape \(5,\)"):
        soft_cross_entropy(logits, torch.zeros(5))
    with pytest.raises(ValueError, match=r"class_weights must have shape \(4,\), got \(3,\)"):
        soft_cross_entropy(logits, targets, torch.ones(3))
    with pytest.raises(ValueError, match=r"gammas must have shape \(4,\), got \(1,\)"):
        soft_cross_entropy(logits, targets, gammas=torch.ones(1))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.floats(0, 1), st.integers(0, 99))
def test_smoothed_rows_sum_to_one_and_are_pytorchs(smoothing, seed):
    logits, targets = batch(seed=seed)
    smoothed = smooth(targets, smoothing)
    torch.testing.assert_close(smoothed.sum(dim=1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(soft_cross_entropy(logits, smoothed), F.cross_entropy(logits, targets, label_smoothing=smoothing))


def test_smoothing_takes_integer_targets_and_refuses_a_share_above_one():
    torch.testing.assert_close(smooth(F.one_hot(torch.tensor([1]), 4), 0.2), torch.tensor([[0.05, 0.85, 0.05, 0.05]]))
    with pytest.raises(ValueError, match=r"smoothing must be in 0\.\.1, got 1\.5"):
        smooth(torch.ones(1, 2), 1.5)
