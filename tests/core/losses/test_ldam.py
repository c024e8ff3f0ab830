"""LDAM's margins and the effective numbers of samples against their plain formulas."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses.ldam import effective_number_weights, ldam_logits, ldam_margins

COUNTS = st.lists(st.integers(1, 5000), min_size=2, max_size=6)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(COUNTS, st.floats(0.1, 1.0), st.sampled_from([1.0, 30.0]), st.booleans())
def test_it_is_the_plain_formula(counts, max_margin, scale, soft):
    n_classes = len(counts)
    generator = torch.Generator().manual_seed(n_classes)
    cosines = 2 * torch.rand(3, n_classes, generator=generator, dtype=torch.float64) - 1
    targets = torch.rand(3, n_classes, generator=generator, dtype=torch.float64).softmax(dim=1)
    if not soft:
        targets = F.one_hot(targets.argmax(dim=1), n_classes).double()
    got = ldam_logits(scale * cosines, targets, torch.tensor(counts), max_margin, scale)
    roots = [n**-0.25 for n in counts]
    for i in range(3):
        for c in range(n_classes):
            margin = max_margin * roots[c] / max(roots)
            expected = scale * (cosines[i, c].item() - margin * targets[i, c].item())
            assert got[i, c].item() == pytest.approx(expected, abs=1e-9)


def test_the_defaults_are_the_papers_margin_and_the_cosine_heads_scale():
    got = ldam_logits(torch.zeros(1, 2), torch.tensor([[0, 1]]), torch.tensor([160, 10]))
    torch.testing.assert_close(got, torch.tensor([[0.0, -15.0]]))
    assert ldam_margins(torch.tensor([160, 10])).tolist() == pytest.approx([0.25, 0.5])


def test_gradients_pass_unchanged():
    logits = torch.zeros(2, 3, requires_grad=True)
    ldam_logits(logits, torch.eye(3)[:2], torch.tensor([9, 3, 1])).sum().backward()
    assert (logits.grad == 1).all()


@settings(derandomize=True, deadline=None, max_examples=60)
@given(COUNTS, st.sampled_from([0.0, 0.9, 0.999, 0.9999]))
def test_effective_number_weights_are_the_plain_formula(counts, beta):
    got = effective_number_weights(torch.tensor(counts, dtype=torch.float64), beta).tolist()
    # The sum of the geometric series instead of its quotient.
    plain = [1 / sum(beta**k for k in range(n)) for n in counts]
    assert got == pytest.approx([w * len(counts) / sum(plain) for w in plain], rel=1e-9)


def test_beta_goes_from_equal_weights_to_inverse_frequencies():
    counts = torch.tensor([1000, 10])
    torch.testing.assert_close(effective_number_weights(counts, 0.0), torch.ones(2))
    torch.testing.assert_close(effective_number_weights(counts, 1 - 1e-9), torch.tensor([20 / 1010, 2000 / 1010]))
    torch.testing.assert_close(effective_number_weights(counts), effective_number_weights(counts, 0.9999))


def test_bad_arguments_are_refused():
    counts = torch.tensor([3, 0])
    with pytest.raises(ValueError, match="got 0 for class 1"):
        ldam_logits(torch.zeros(1, 2), torch.zeros(1, 2), counts)
    with pytest.raises(ValueError, match="got 0 for class 1"):
        effective_number_weights(counts)
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(3,\)"):
        ldam_logits(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(3))
    with pytest.raises(ValueError, match=r"targets of shape \(1,\)"):
        ldam_logits(torch.zeros(1, 2), torch.zeros(1), torch.ones(2))
    with pytest.raises(ValueError, match="max_margin must be above 0, got 0"):
        ldam_logits(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(2), max_margin=0)
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\), got 1"):
        effective_number_weights(torch.ones(2), 1.0)
