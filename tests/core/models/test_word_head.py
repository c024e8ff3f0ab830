"""The word head is a linear layer over the mean image token."""

import torch

from core.losses.word_supervision import WordFrequency, word_supervision, words_present
from core.models.tokenizers import VOCABULARY
from core.models.word_head import WordHead
from tests.core.models import tiny_clip


def test_it_is_linear_in_the_mean_token():
    head, tokens = WordHead(8, 5), torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(tokens), tokens.mean(dim=1) @ head.linear.weight.T)


def test_the_seed_decides_and_the_global_generator_stays():
    before = torch.get_rng_state()
    one, same, other = (WordHead(8, 5, seed).linear.weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other) and torch.equal(torch.get_rng_state(), before)


def test_word_supervision_reaches_the_image_tower():
    towers = tiny_clip.towers()
    tokens = towers.tokenizer(tiny_clip.SENTENCES)
    present = words_present(tokens.ids, tokens.word_mask, VOCABULARY)
    frequency = WordFrequency(VOCABULARY)
    frequency.update(present)
    logits = WordHead(64, VOCABULARY)(towers.image_tokens(tiny_clip.images()))
    word_supervision(logits, present, frequency.weights()).backward()
    assert towers.visual.body.conv1.weight.grad.abs().sum() > 0
    assert towers.text.body.token_embedding.weight.grad is None
