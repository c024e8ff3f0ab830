"""The posts task's parts against plain formulas: losses of one size, rates, dropped tokens."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from core.models.tokenizers import ClipTokenizer
from core.training.posts import PostLoss, augmented, drop_tokens, rate

COUNTS = torch.tensor([30, 10, 60])
LABELS = torch.repeat_interleave(torch.arange(3), COUNTS)


@pytest.mark.parametrize("loss", ["ce", "focal", "cb", "combo"])
def test_every_loss_starts_at_the_size_of_cross_entropy(loss):
    value = PostLoss(loss, 2.0, 0.9999, COUNTS)(torch.zeros(len(LABELS), 3), LABELS)
    assert float(value) == pytest.approx(math.log(3), rel=1e-5)


def test_losses_are_their_formulas():
    logits = torch.randn(len(LABELS), 3, generator=torch.Generator().manual_seed(0))
    log_p = logits.log_softmax(1).gather(1, LABELS[:, None])[:, 0]
    weights = (1 - 0.99) / (1 - 0.99 ** COUNTS.double())
    weights = (weights * 100 / (weights * COUNTS).sum()).float()[LABELS]
    focal = (1 - log_p.exp()) ** 1.5 / (2 / 3) ** 1.5
    expected = {"ce": -log_p, "focal": -focal * log_p, "cb": -weights * log_p, "combo": -weights * focal * log_p}
    for name, value in expected.items():
        assert float(PostLoss(name, 1.5, 0.99, COUNTS)(logits, LABELS)) == pytest.approx(float(value.mean()), rel=1e-5)
    assert float(PostLoss("ce", 1.5, 0.99, COUNTS)(logits, LABELS)) == pytest.approx(float(F.cross_entropy(logits, LABELS)), rel=1e-5)


@given(st.integers(1, 200), st.floats(0, 1), st.booleans())
def test_rates_rise_to_one_and_never_leave_0_to_1(total, warmup, cosine):
    rates = [rate(step, total, warmup, cosine) for step in range(total)]
    warm = round(warmup * total)
    assert all(0 <= value <= 1 for value in rates)
    assert rates[:warm] == pytest.approx([(step + 1) / warm for step in range(warm)])
    assert all(b <= a for a, b in zip(rates[warm:], rates[warm + 1 :], strict=False)) and (cosine or set(rates[warm:]) <= {1.0})


def test_dropped_tokens_leave_start_end_and_order():
    tokens = ClipTokenizer(12)(["one two three four five six", "", "a"])
    assert torch.equal(drop_tokens(tokens.ids, 0.0, torch.Generator()), tokens.ids)
    for seed in range(20):
        found = drop_tokens(tokens.ids, 0.5, torch.Generator().manual_seed(seed))
        for before, after in zip(tokens.ids.tolist(), found.tolist(), strict=True):
            left = [token for token in after if token]
            assert left[0] == before[0] and left[-1] == max(before) and after[len(left) :] == [0] * (12 - len(left))
            rest = iter(before)
            assert all(token in rest for token in left)


def test_a_variant_is_drawn_by_key_and_number_alone():
    pixels = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(augmented(pixels, 1, "a", 1), augmented(pixels, 1, "a", 1))
    others = [augmented(pixels, 2, "a", 1), augmented(pixels, 1, "b", 1), augmented(pixels, 1, "a", 0), pixels]
    assert not any(torch.equal(augmented(pixels, 1, "a", 1), other) for other in others)
