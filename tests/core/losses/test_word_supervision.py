"""Word supervision against its plain formula, and the word weights against the published ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses.word_supervision import WordFrequency, word_supervision, words_present

IDS = torch.tensor([[7, 2, 2, 0, 8, 0], [7, 3, 8, 0, 0, 0]])
MASK = torch.tensor([[False, True, True, True, False, False], [False, True, False, False, False, False]])


def plain_loss(logits, present, weights) -> float:
    total = 0.0
    for row, words in zip(logits, present, strict=True):
        log_sum = math.log(sum(map(math.exp, row)))
        norm = sum(p * w for p, w in zip(words, weights, strict=True))
        total += sum(p * w / norm * (log_sum - x) for p, w, x in zip(words, weights, row, strict=True)) if norm else 0.0
    return total / len(logits)


def test_words_are_marked_once_and_padding_is_none():
    """Index 0 pads and is a word (an exclamation mark): only the mask tells them apart."""
    present = words_present(IDS, MASK, 9)
    assert [row.nonzero().flatten().tolist() for row in present] == [[0, 2], [3]]
    assert present.max() == 1


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5), st.integers(0, 1000))
def test_it_is_the_plain_formula(words, seed):
    logits = torch.randn(len(words), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = torch.tensor([0.0, 0.3, 1.0, 2.5], dtype=torch.float64)
    got = word_supervision(logits, torch.tensor(words), weights)
    assert got.item() == pytest.approx(plain_loss(logits.tolist(), words, weights.tolist()))


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_weights_are_the_published_ones_whatever_the_batch(batch):
    present = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]])
    frequency = WordFrequency(3)
    n = f = 0
    for part in present.split(batch):
        frequency.update(part)
        n, f = n + 1, f + part.float().mean(dim=0)
    torch.testing.assert_close(frequency.weights(), ((n + 1 / batch) / (f + 1 / batch)).log())
    assert frequency.weights()[0] == 0 and frequency.weights().argmax() == 2


def test_counts_travel_with_a_checkpoint():
    frequency, other = WordFrequency(3), WordFrequency(3)
    frequency.update(torch.tensor([[1, 0, 0], [1, 1, 0]]))
    other.load_state_dict(frequency.state_dict())
    assert torch.equal(other.weights(), frequency.weights())


def test_a_rare_word_counts_more_than_a_common_one():
    present, logits = torch.tensor([[1.0, 1.0]]), torch.zeros(1, 2, requires_grad=True)
    word_supervision(logits, present, torch.tensor([0.1, 2.0])).backward()
    assert logits.grad[0, 1] < 0 < logits.grad[0, 0]


def test_gradients_are_right():
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    present, weights = words_present(IDS, MASK, 9), torch.linspace(0, 2, 9)
    assert torch.autograd.gradcheck(lambda x: word_supervision(x, present, weights), logits)


def test_a_caption_without_words_counts_nothing():
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    word_supervision(logits, torch.tensor([[0, 0, 0], [0, 1, 0]]), torch.ones(3)).backward()
    assert not logits.grad[0].any() and logits.grad[1].any()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="do not agree"):
        word_supervision(torch.zeros(2, 3), torch.zeros(2, 4), torch.ones(3))
