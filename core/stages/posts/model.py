"""Trained classifiers of posts, whatever they are made of: opened, or trained on given rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from core.data.posts import Posts
from core.errors import UserError
from core.lineage import Lineage
from core.models.preprocessing import OLDER, Preprocessing
from core.serving import posts as serving
from core.stages import inputs
from core.stages.posts import checks, features, materials, optimize, publish, reference
from core.stages.posts.config import OptimizeClipConfig
from core.tracking import served
from core.training import state as states


class PostPredictor(Protocol):
    """Maps posts to class probabilities.

    Attributes:
        class_names: C names.
        image_size: side S of the pictures it takes, in pixels.
        lineage: what it has learnt from.
        preprocessing: how pictures become those.
    """

    class_names: tuple[str, ...]
    image_size: int
    lineage: Lineage
    preprocessing: Preprocessing

    def probabilities(self, texts: Sequence[str], images: np.ndarray | None) -> np.ndarray:
        """Return (N, C) float64 rows that sum to 1, of raw texts and images (N, 3, S, S) uint8 (None: it sees the text only)."""


def pictures(predictor: PostPredictor, posts_rows: Posts) -> np.ndarray:
    """Return the pictures of posts as a predictor takes them; see `images_of`."""
    return images_of(posts_rows, predictor.image_size, predictor.preprocessing)


def images_of(posts_rows: Posts, image_size: int, seen: Preprocessing = OLDER) -> np.ndarray:
    """Return the pictures of posts as (N, 3, S, S) uint8, resized and cut out as `seen` says (disk).

    Raises:
        UserError: a file is no readable image; all are named.
    """
    return features.pixels_of(posts_rows, image_size, seen).numpy()


def open_predictor(uri: str) -> PostPredictor:
    """Return the classifier that a run of `optimize_clip`, a folder or a checkpoint (path or URI) holds.

    Raises:
        UserError: there is none, or it is damaged.
    """
    from core.tracking.uri import resolve

    path = resolve(uri, "weights")
    folder = _predictor_folder(path)
    if folder is not None:
        if (folder / served.FACTS).is_file():
            _require_whole(folder)
        return serving.read(folder)
    checkpoint = _best_checkpoint(path, uri)
    state = states.load_checkpoint(checkpoint)
    net, config = optimize.net_of(state, checkpoint)
    about = {"class_names": state.facts["class_names"], "image_size": config.image_size, "cleaning": config.cleaning}
    predictor = serving.TowersPredictor(net, about)
    predictor.lineage = state.lineage
    return predictor


def _require_whole(folder: Path) -> None:
    try:
        served.check(folder)
    except UserError as error:
        raise UserError(f"'{folder}': {error}") from None


def _predictor_folder(path: Path) -> Path | None:
    """Return the folder of a predictor that `path` means: itself, one of its files, or what a run or a registered model holds."""
    if path.is_file():
        return path.parent if path.name in serving.FILES else None
    candidates = [path, path / publish.PREDICTOR, *sorted(path.glob("data/*"))]
    return next((folder for folder in candidates if (folder / serving.FILES[0]).is_file()), None)


def _best_checkpoint(path: Path, uri: str) -> Path:
    """Return the checkpoint that is meant: of a run's folder the best one that its summary names, else the newest."""
    summary = path / "summary.json"
    if path.is_dir() and summary.is_file():
        best = json.loads(summary.read_text()).get("best_checkpoint", "")
        if best and (path / best).is_file():
            return path / best
    return inputs.checkpoint_at(uri, "weights")


def train_on(config: OptimizeClipConfig, train_rows: Posts, val_rows: Posts, folder: Path) -> PostPredictor:
    """Train on given rows, everything else as `config` says, and return the best epoch's classifier.

    Args:
        config: its CSV options are not read, and nothing is registered.
        train_rows, val_rows: labelled posts.
        folder: for checkpoints while it trains; those that are there already are continued.

    Raises:
        UserError: a class without training posts, posts without labels, or a mistake in `config`.
    """
    checks.check_training(config)
    rows = {"train": train_rows, "val": val_rows}
    materials.check_rows(rows)
    if config.encoder == "tfidf":
        return reference.predictor_of(config, rows)
    return optimize.predictor_of(dataclasses.replace(config, resume=""), rows, folder)
