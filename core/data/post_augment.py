"""Variants of single posts for training: images cropped, flipped and recoloured a little, texts said a little otherwise."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torchvision.transforms.v2 import functional as tv

from core.data.corruptions import generator
from core.data.text_cleaning import NEGATIONS
from core.errors import UserError

CROP = (0.85, 1.0)  # of the sides
JITTER = 0.1  # brightness, contrast and saturation change by at most this share
WORD_DROPOUT = 0.15
_TRIES = 10  # to find a variant that is not there yet
# Signs that say the same; a variant takes another of the row.
SYNONYMS = (
    ("😂", "🤣", "😹", "😆"),
    ("😊", "🙂", "☺️", "😃", "😄", "😁", "😀"),
    ("😍", "🥰", "😘", "😻"),
    ("❤️", "💕", "💖", "💗", "💙", "💜", "💚", "💛", "♥️"),
    ("👍", "👏", "🙌", "👌"),
    ("🎉", "🥳", "🎊"),
    ("🔥", "💯", "✨"),
    ("😢", "😭", "😿", "😥"),
    ("😞", "😔", "🙁", "☹️", "😟"),
    ("😠", "😡", "🤬"),
    ("😱", "😨", "😰"),
    (":)", ":-)", "=)"),
    (":D", ":-D", "=D"),
    (":(", ":-(", "=("),
    (";)", ";-)"),
)
_ROW_OF = {sign: row for row in SYNONYMS for sign in row}
_SIGN = re.compile("|".join(re.escape(sign) for sign in sorted(_ROW_OF, key=len, reverse=True)))
_RUN = re.compile(r"([^\W\d_])\1{2,}")


def augment_image(image: np.ndarray, num_aug: int, seed: int = 0, key: object = "") -> list[np.ndarray]:
    """Return `num_aug` variants of an image (H,W,3) uint8, of its size: crop of 0.85..1 of the sides, flip, light colour jitter.

    `key` (a guid) and `seed` decide the draws; variant i is the same however many are asked for. UserError for num_aug < 1.
    """
    _check(num_aug)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 (H,W,3), not {image.dtype} {image.shape}")
    planes = torch.tensor(image).permute(2, 0, 1)
    return [_image_variant(planes, generator(seed, "image", key, i)) for i in range(num_aug)]


def _image_variant(planes: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    size = list(planes.shape[1:])
    height, width = (max(1, round(side * scale)) for side, scale in zip(size, [rng.uniform(*CROP)] * 2, strict=True))
    top, left = (int(rng.integers(0, side - crop + 1)) for side, crop in zip(size, (height, width), strict=True))
    planes = tv.resized_crop(planes, top, left, height, width, size, antialias=True)
    if rng.random() < 0.5:
        planes = tv.horizontal_flip(planes)
    for adjust in (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation):
        planes = adjust(planes, rng.uniform(1 - JITTER, 1 + JITTER))
    return planes.permute(1, 2, 0).contiguous().numpy()


def augment_text(text: str, num_aug: int, seed: int = 0, key: object = "") -> tuple[str, ...]:
    """Return `num_aug` variants of a text: synonyms of emoji, repeated letters, dropped words (a negation only
    where nothing else is left).

    Each variant has other words than the text whenever that has more than one word or a letter; variants differ from each other
    where a few draws find one that does. UserError for num_aug < 1.
    """
    _check(num_aug)
    found: list[str] = []
    for i in range(num_aug):
        rng = generator(seed, "text", key, i)
        variant = _text_variant(text, rng)
        for _ in range(_TRIES):
            if variant not in found:
                break
            variant = _text_variant(text, rng)
        found.append(variant)
    return tuple(found)


def _text_variant(text: str, rng: np.random.Generator) -> str:
    """Return one variant: signs, letters, words; then, if that changed nothing, at least one of them."""
    words = swap_signs(text, rng).split()
    if rng.random() < 0.5:
        words = stretch_word(words, rng)
    words = drop_words(words, WORD_DROPOUT, rng)
    if words != text.split():
        return " ".join(words)
    changed = stretch_word(words, rng)
    if changed == words or (len(words) > 1 and rng.random() < 0.5):
        changed = drop_words(words, 0.0, rng, least=1)
    return " ".join(changed)


def swap_signs(text: str, rng: np.random.Generator) -> str:
    """Replace every emoji and emoticon that has synonyms by another one that says the same."""

    def another(match: re.Match[str]) -> str:
        others = [sign for sign in _ROW_OF[match[0]] if sign != match[0]]
        return others[rng.integers(len(others))]

    return _SIGN.sub(another, text)


def stretch_word(words: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Stretch one word by a vowel ('so' to 'sooo'), or shorten it where a letter is repeated already; links and tags stay."""
    words = list(words)
    plain = [i for i, word in enumerate(words) if not word.startswith(("http", "www.", "@", "#"))]
    places = {i: _places(words[i], vowels=True) for i in plain}
    if not any(places.values()):
        places = {i: _places(words[i], vowels=False) for i in plain}
    open_words = [i for i, found in places.items() if found]
    if open_words:
        chosen = open_words[rng.integers(len(open_words))]
        word, at = words[chosen], places[chosen][-1]
        shortened = _RUN.sub(r"\1", word)
        words[chosen] = shortened if shortened != word else word[:at] + word[at] * int(rng.integers(3, 5)) + word[at + 1 :]
    return words


def _places(word: str, vowels: bool) -> list[int]:
    """Return the places of Latin vowels, or of all letters that have a case."""
    return [i for i, letter in enumerate(word) if (letter in "aeiouAEIOU" if vowels else letter.lower() != letter.upper())]


def drop_words(words: Sequence[str], rate: float, rng: np.random.Generator, least: int = 0) -> list[str]:
    """Drop each word with probability `rate`, at least `least` and never the last one; negations only when nothing else is there."""
    draws = rng.random(len(words))
    order = sorted(range(len(words)), key=lambda i: (_negates(words[i]), draws[i]))
    droppable = [i for i in order if not _negates(words[i])]
    count = min(max(int((draws[droppable] < rate).sum()), least), len(words) - 1)
    return [word for i, word in enumerate(words) if i not in order[: max(count, 0)]]


def _negates(word: str) -> bool:
    word = word.strip(".,!?").lower().replace("\u2019", "'")
    return word in NEGATIONS or word.endswith("n't")


def _check(num_aug: int) -> None:
    if num_aug < 1:
        raise UserError(f"num_aug must be 1 or more, not {num_aug}")
