"""What can be said of a post without understanding it: how long its text is, emoji, script, how large its image is."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from core.data.decoding import size_of
from core.data.posts import Posts
from core.data.text_cleaning import clean

LENGTHS = ("1-20", "21-50", "51-100", "over 100")
_LENGTH_ENDS = (20, 50, 100)
NO_TEXT = "none"
AREAS = ("small", "medium", "large")
EMOJI = ("with emoji", "without")
_SCRIPTS = {
    "LATIN": "Latin",
    "CJK": "Chinese",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "HANGUL": "Korean",
    "CYRILLIC": "Cyrillic",
    "ARABIC": "Arabic",
    "GREEK": "Greek",
    "HEBREW": "Hebrew",
    "THAI": "Thai",
    "DEVANAGARI": "Devanagari",
}
_MIXED_SHARE = 0.3  # of the letters in a second script


def length_group(text: str) -> str:
    """Return which of LENGTHS a text's number of characters is in ('none' for an empty one)."""
    return LENGTHS[int(np.searchsorted(_LENGTH_ENDS, len(text)))] if text else NO_TEXT


def emoji_group(text: str) -> str:
    """Return whether a text holds an emoji."""
    import emoji

    return EMOJI[0] if emoji.emoji_count(text) else EMOJI[1]


def script_group(text: str) -> str:
    """Return the script of a text's letters, links and mentions left out: the simplest detection of a language.

    'mixed' where a second script has more than 30 % of the letters, 'none' without letters. Kana make Chinese characters Japanese.
    """
    letters = [letter for letter in clean(text, ("urls", "mentions")) if letter.isalpha()]
    names = (unicodedata.name(letter, "").partition(" ")[0].partition("-")[0] for letter in letters)
    counts = Counter(_SCRIPTS.get(name, "other") for name in names)
    if "Japanese" in counts:
        counts["Japanese"] += counts.pop("Chinese", 0)
    if not counts:
        return NO_TEXT
    (first, _), *others = counts.most_common()
    return "mixed" if others and others[0][1] > _MIXED_SHARE * len(letters) else first


def image_areas(posts: Posts) -> np.ndarray:
    """Return (N,) int64 width times height of each image in pixels, of the files' headers (disk)."""
    areas = np.zeros(len(posts), np.int64)
    for i, path in enumerate(posts.image_paths):
        areas[i] = math.prod(size_of(path))
    return areas


def area_groups(areas: np.ndarray) -> list[str]:
    """Return the tercile of each area among all of them (N,); equal areas are in one group."""
    ends = np.quantile(areas, (1 / 3, 2 / 3)) if len(areas) else np.zeros(2)
    return [AREAS[place] for place in np.searchsorted(ends, areas)]


def groupings(posts: Posts, predicted: Sequence[str]) -> dict[str, tuple[list[str], tuple[str, ...]]]:
    """Return title -> (group of each post, order of the groups) for all ways of grouping posts and their predicted classes."""
    return {
        "characters of the text": ([length_group(text) for text in posts.texts], LENGTHS),
        "emoji": ([emoji_group(text) for text in posts.texts], EMOJI),
        "image area, terciles": (area_groups(image_areas(posts)), AREAS),
        "script of the text": ([script_group(text) for text in posts.texts], ()),
        "true class": (list(posts.tags), posts.class_names),
        "predicted class": (list(predicted), posts.class_names),
    }
