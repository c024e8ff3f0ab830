"""Trained classifiers of posts, whatever they are made of: opened, or trained on given rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from core.data.posts import Posts
from core.stages.posts.config import OptimizeClipConfig


class PostPredictor(Protocol):
    """Maps posts to class probabilities.

    Attributes:
        class_names: C names.
        image_size: side S of the pictures it takes, in pixels.
    """

    class_names: tuple[str, ...]
    image_size: int

    def probabilities(self, texts: Sequence[str], images: np.ndarray | None) -> np.ndarray:
        """Return (N, C) float64 rows that sum to 1, of raw texts and images (N, 3, S, S) uint8 (None: it sees the text only)."""


def images_of(posts_rows: Posts, image_size: int) -> np.ndarray:
    """Return the pictures of posts as (N, 3, S, S) uint8, resized and cropped as a predictor takes them (disk).

    Raises:
        UserError: a file is no readable image; all are named.
    """
    raise NotImplementedError


def open_predictor(uri: str) -> PostPredictor:
    """Return the classifier that a run of `optimize_clip`, a folder or a checkpoint (path or URI) holds.

    Raises:
        UserError: there is none, or it is damaged.
    """
    raise NotImplementedError


def train_on(config: OptimizeClipConfig, train_rows: Posts, val_rows: Posts, run: Any, folder: Path) -> PostPredictor:
    """Train on given rows, everything else as `config` says, and return the best epoch's classifier.

    Args:
        config: its CSV options are not read, and nothing is registered.
        train_rows, val_rows: labelled posts.
        run: gets the metrics of each epoch; None = nobody does.
        folder: new folder for checkpoints while it trains.

    Raises:
        UserError: a class without training posts, posts without labels, or a mistake in `config`.
    """
    raise NotImplementedError
