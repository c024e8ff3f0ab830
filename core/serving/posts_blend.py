"""A blend of post classifiers: towers and n-grams answer each by itself, and what they say is pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from core.lineage import NOTHING, Lineage
from core.models.blend import Blend
from core.models.preprocessing import Preprocessing


class Towers(Protocol):
    """The first member."""

    image_size: int
    preprocessing: Preprocessing
    needs_images: bool

    def probabilities(self, texts: Sequence[str], images: np.ndarray | None) -> np.ndarray:
        """Return (N, C)."""


class Ngrams(Protocol):
    """The members after it: n-grams and, where it has one, an image tower's features."""

    def by_side(self, texts: Sequence[str], images: np.ndarray | None) -> list[np.ndarray]:
        """Return (N, C) of each of its regressions."""


class BlendPredictor:
    """Posts to probabilities by a blend.

    Args:
        towers, ngrams: members that read the same texts and pictures of one size.
        blend: weights of the towers, the n-grams and, where it has them, the image features, in this order.
        about: class_names and whatever else is worth knowing.
    """

    lineage: Lineage = NOTHING
    """What it has learnt from."""

    def __init__(self, towers: Towers, ngrams: Ngrams, blend: Blend, about: Mapping[str, Any]) -> None:
        self.towers, self.ngrams, self.blend, self.about = towers, ngrams, blend, dict(about)
        self.class_names, self.image_size = tuple(about["class_names"]), towers.image_size
        self.preprocessing, self.needs_images, self.needs_texts = towers.preprocessing, towers.needs_images, True

    def probabilities(self, texts: Sequence[str], images: np.ndarray | None) -> np.ndarray:
        """Return (N, C) float64 of raw texts and images (N, 3, S, S) uint8; see `core.stages.posts.model.PostPredictor`."""
        return self.blend.probabilities([self.towers.probabilities(texts, images), *self.ngrams.by_side(texts, images)])
