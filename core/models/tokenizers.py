"""Texts to token ids: CLIP's byte-pair encoding, which ships with open_clip, and the tokenizer.json of a sentence encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError

VOCABULARY = 49408


@dataclass(frozen=True)
class Tokens:
    """Token ids of texts, padded to one length."""

    ids: Tensor
    """(N, L) int64: start, the text's tokens, end, then the tokenizer's padding."""
    lengths: Tensor
    """(N,) int64: tokens in use, start and end included; 2 for a text without words."""
    cut: Tensor
    """(N,) bool: the text was longer than the context and lost its end."""

    @property
    def word_mask(self) -> Tensor:
        """(N, L) bool: the text's own tokens, without start, end and padding (whose index may also be a word's)."""
        position = torch.arange(self.ids.shape[1], device=self.ids.device)[None, :]
        return (position > 0) & (position < self.lengths[:, None] - 1)


class ClipTokenizer:
    """CLIP's tokenizer (Radford et al. 2021, arXiv:2103.00020, section 2.4): lower-cased byte pairs, 49408 of them.

    A text longer than the context keeps its first L - 2 tokens and its end token, which the text tower pools at. An empty
    text is start and end alone. Special tokens written out in a text are dropped: no text can end itself early.

    Args:
        context_length: L, at least 3.

    Raises:
        UserError: `context_length` leaves no room for a word.

    Example:
        >>> tokens = ClipTokenizer(16)(["a leaf with brown spots"])
        >>> tokens.ids.shape, int(tokens.lengths), bool(tokens.cut)
        (torch.Size([1, 16]), 7, False)
    """

    padding = 0
    vocabulary = VOCABULARY

    def __init__(self, context_length: int) -> None:
        self.context_length = _with_room(context_length)
        self._bpe = _byte_pairs()
        self.start, self.end = self._bpe.sot_token_id, self._bpe.eot_token_id

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Return the tokens of N texts."""
        room = self.context_length - 2
        encoded = [[token for token in self._bpe.encode(text) if token not in (self.start, self.end)] for text in texts]
        ids = torch.zeros(len(encoded), self.context_length, dtype=torch.long)
        for row, tokens in zip(ids, encoded, strict=True):
            kept = [self.start, *tokens[:room], self.end]
            row[: len(kept)] = torch.tensor(kept)
        lengths = torch.tensor([len(tokens) for tokens in encoded], dtype=torch.long)
        return Tokens(ids, lengths.clamp(max=room) + 2, lengths > room)

    def lengths(self, token_ids: Tensor) -> Tensor:
        """Return how many tokens each row (B, L) uses, (B,): the end token has the largest id; the padding is also a word."""
        return token_ids.argmax(dim=1) + 1

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, with special tokens left out; for reports."""
        return self._bpe.decode([int(token) for token in token_ids if int(token) not in (self.start, self.end)]).strip()


class SentenceTokenizer:
    """The tokenizer of a sentence encoder, as its tokenizer.json has it but for the length and padding that it was saved with.

    A text longer than the context keeps its first tokens and its end token. Special tokens written out in a text are read as the
    letters that they are: no text can end itself early, or hide a part of itself as padding.

    Args:
        definition: what tokenizer.json holds.
        context_length: L, at least 3.
        padding: id of the padding token.

    Raises:
        UserError: no tokenizer, or a context that leaves no room for a word.

    Example:
        >>> tokens = SentenceTokenizer(Path("all-MiniLM-L6-v2/tokenizer.json").read_text(), 256, 0)(["a leaf with brown spots"])
        >>> tokens.ids.shape, int(tokens.lengths)
        (torch.Size([1, 256]), 7)
    """

    def __init__(self, definition: str, context_length: int, padding: int) -> None:
        from tokenizers import Tokenizer

        try:
            self._made = Tokenizer.from_str(definition)
        except Exception as error:  # the library raises plain Exception
            line = " ".join(str(error).split())[:100]
            raise UserError(f"tokenizer.json of the sentence encoder is no tokenizer ({line}); copy or download it again") from None
        self.context_length, self.padding = _with_room(context_length), padding
        self.vocabulary = self._made.get_vocab_size()
        self._made.no_padding()
        self._made.enable_truncation(context_length)
        self._made.encode_special_tokens = True

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Return the tokens of N texts."""
        encoded = [self._made.encode(text) for text in texts]  # not in one call: that starts threads, which forbid forking
        ids = torch.full((len(encoded), self.context_length), self.padding, dtype=torch.long)
        for row, found in zip(ids, encoded, strict=True):
            row[: len(found.ids)] = torch.tensor(found.ids)
        cut = torch.tensor([bool(found.overflowing) for found in encoded], dtype=torch.bool)
        return Tokens(ids, torch.tensor([len(found.ids) for found in encoded], dtype=torch.long), cut)

    def lengths(self, token_ids: Tensor) -> Tensor:
        """Return how many tokens each row (B, L) uses, (B,)."""
        return (token_ids != self.padding).sum(dim=1)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, with special tokens left out; for reports."""
        return self._made.decode([int(token) for token in token_ids]).strip()


Tokenizer = ClipTokenizer | SentenceTokenizer


def _with_room(context_length: int) -> int:
    if context_length < 3:
        raise UserError(f"context_length={context_length} leaves no room for a word between start and end; give 3 or more")
    return context_length


@lru_cache(maxsize=1)
def _byte_pairs() -> Any:
    # Reading the 262 thousand merges takes a third of a second, and all contexts share them.
    from core.models.open_clip_alone import open_clip

    return open_clip.SimpleTokenizer()
