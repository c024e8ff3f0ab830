"""Text corruptions in five severities: typos, dropped words, case, emoji removed.

Every letter, word or emoji draws one number, whatever the severity, and is hit where the number is below the rate: what a
severity damages, all higher ones damage too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.data.corruptions import check, generator

# name: rates of severities 1..5
RATES: dict[str, tuple[float, ...]] = {
    "typos": (0.02, 0.05, 0.10, 0.15, 0.25),  # of letters
    "dropped_words": (0.1, 0.2, 0.3, 0.4, 0.5),  # of words
    "case": (0.1, 0.25, 0.5, 0.75, 1.0),  # of letters
    "emoji_removed": (0.2, 0.4, 0.6, 0.8, 1.0),  # of emoji
}
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {row[i]: row[max(i - 1, 0) : i] + row[i + 1 : i + 2] for row in _KEYBOARD for i in range(len(row))}


def corrupt_text(text: str, name: str, severity: int, seed: int = 0, key: object = "") -> str:
    """Return the corrupted text; `key` (a guid) and `seed` decide what is hit. UserError for an unknown name or severity."""
    check(name, severity, TEXT_CORRUPTIONS)
    return TEXT_CORRUPTIONS[name](text, RATES[name][severity - 1], generator(seed, name, key))


def _typos(text: str, rate: float, rng: np.random.Generator) -> str:
    """Hit letters are left out, doubled or replaced by a neighbour on the keyboard."""
    draws, kinds, sides = rng.random(len(text)), rng.integers(0, 3, len(text)), rng.integers(0, 2, len(text))
    out = []
    for letter, draw, kind, side in zip(text, draws, kinds, sides, strict=True):
        if draw >= rate or not letter.isalpha():
            out.append(letter)
        elif kind == 1 or (kind == 2 and letter.lower() not in _NEIGHBOURS):
            out.append(letter * 2)
        elif kind == 2:
            near = _NEIGHBOURS[letter.lower()]
            near = near[side % len(near)]
            out.append(near.upper() if letter.isupper() else near)
    return "".join(out)


def _dropped_words(text: str, rate: float, rng: np.random.Generator) -> str:
    """Hit words are left out, but never the last one that is left."""
    words = text.split()
    draws = rng.random(len(words))
    kept = [word for word, draw in zip(words, draws, strict=True) if draw >= min(rate, max(draws))]
    return " ".join(kept)


def _case(text: str, rate: float, rng: np.random.Generator) -> str:
    """Hit letters change between upper and lower case."""
    draws = rng.random(len(text))
    return "".join(letter.swapcase() if draw < rate else letter for letter, draw in zip(text, draws, strict=True))


def _emoji_removed(text: str, rate: float, rng: np.random.Generator) -> str:
    """Hit emoji are left out."""
    import emoji

    draws = iter(rng.random(len(text)))
    return emoji.replace_emoji(text, lambda chars, _: "" if next(draws) < rate else chars)


TEXT_CORRUPTIONS: dict[str, Callable[[str, float, np.random.Generator], str]] = {
    "typos": _typos,
    "dropped_words": _dropped_words,
    "case": _case,
    "emoji_removed": _emoji_removed,
}
