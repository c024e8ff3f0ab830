"""The word head: what word supervision adds to an image tower."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WordHead(nn.Module):
    """A linear layer from the mean image token to word logits (SuperCLIP, arXiv:2512.14480, figure 2).

    Args:
        width: of the image tokens (`ClipTowers.token_width`).
        vocabulary: V; the number of words that occur in the captions is enough.
        seed: seeds the normal (std width^-0.5) initialisation; the global random state is not touched.

    Example:
        >>> logits = WordHead(768, 49408)(towers.image_tokens(images))
    """

    def __init__(self, width: int, vocabulary: int, seed: int = 1) -> None:
        super().__init__()
        self.linear = nn.utils.skip_init(nn.Linear, width, vocabulary)
        nn.init.normal_(self.linear.weight, std=width**-0.5, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map image tokens (B, T, width) to word logits (B, V)."""
        return self.linear(tokens.mean(dim=1))
