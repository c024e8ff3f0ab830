"""Word supervision: the image's tokens foretell which words its caption has, rare words above all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.losses._similarity import full_precision


class WordFrequency(nn.Module):
    """Counts in how many captions each word occurred; its weights are an inverse document frequency.

    SuperCLIP (Zhao et al. 2025, arXiv:2512.14480) weighs a word by log((N + 1/B) / (f_t + 1/B)), with N batches of B captions
    seen and f_t the sum over them of the share of captions that have word t. Counted in captions (n = N*B, c_t = f_t*B) that
    is log((n + 1) / (c_t + 1)), whatever the batch size: a word of every caption weighs 0, a word never seen log(n + 1).

    The counts are buffers, so that a checkpoint carries them.

    Args:
        vocabulary: V, the number of words.
    """

    captions: Tensor
    counts: Tensor

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("captions", torch.zeros(()))
        self.register_buffer("counts", torch.zeros(vocabulary))

    def update(self, present: Tensor) -> None:
        """Count the captions whose words `present` (B, V) marks with other than 0."""
        self.captions += present.shape[0]
        self.counts += (present != 0).sum(dim=0)

    def weights(self) -> Tensor:
        """Return the words' weights (V,) in float32, none below 0."""
        return ((self.captions + 1) / (self.counts + 1)).log()


def words_present(token_ids: Tensor, word_mask: Tensor, vocabulary: int) -> Tensor:
    """Return (B, V) float32 with 1 where a caption has the word, however often.

    Args:
        token_ids: (B, L) indices below V.
        word_mask: (B, L) bool, False for start, end and padding (the padding's index 0 is also a word).
        vocabulary: V.
    """
    present = torch.zeros(token_ids.shape[0], vocabulary, device=token_ids.device)
    return present.scatter_reduce_(1, token_ids, word_mask.to(present.dtype), reduce="amax")


def word_supervision(logits: Tensor, present: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of the word logits against the caption's weighted words (arXiv:2512.14480, section 3).

    y_t = present_t * w_t / sum_u present_u * w_u,   loss = -mean_i sum_t y_it log softmax(logits_i)_t.

    Args:
        logits: (B, V) of a linear layer over the image's mean token (`core.models.word_head`).
        present: (B, V), what `words_present` gives; columns of words that no caption has may be left out of all three.
        weights: (V,) not negative (`WordFrequency.weights`).

    Returns:
        A scalar in float32 (float64 for float64 input). A caption without words of weight counts 0.

    Raises:
        ValueError: shapes do not agree.
    """
    if logits.shape != present.shape or weights.shape != logits.shape[1:]:
        raise ValueError(f"logits {tuple(logits.shape)}, words {tuple(present.shape)} and weights {tuple(weights.shape)} do not agree")
    with torch.autocast(logits.device.type, enabled=False):
        log_probability = full_precision(logits).log_softmax(dim=1)
        targets = F.normalize(present.to(log_probability.dtype) * weights.to(log_probability.dtype), p=1, dim=1)
        return -(targets * log_probability).sum(dim=1).mean()
