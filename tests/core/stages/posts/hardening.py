"""Tiny prepared posts and a classifier that reads one word and the brightness, for the tests of the hardening tools."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.data import post_splits
from core.data.posts import CLASS_NAMES, Posts
from core.stages.posts import model
from tests.core.data import fake_posts
from tests.memory_run import MemoryRun

WORDS = ("awful", "okay", "lovely")  # of the three classes
MISLED = (4, 11, 18, 25)  # rows whose word is that of the next class


def write(root: Path, n: int = 60) -> Path:
    """Write `root/data` and `root/csv/{train,val,test}.csv`: the word of a post's text tells its class, but for MISLED; return `root`."""
    fake_posts.write(root, n, n_predict=0)
    guids = tuple(str(i) for i in range(1, n + 1))
    texts = []
    for i, guid in enumerate(guids):
        texts.append(f"post {guid} is {WORDS[(i + (i in MISLED)) % 3]} and this is all that can be said of it")
        (root / "data" / f"{guid}.txt").write_text(texts[-1], encoding="utf-8")
    images = tuple(root / "data" / f"{guid}.jpg" for guid in guids)
    posts = Posts(guids, tuple(texts), images, np.arange(n, dtype=np.int64) % 3)
    (root / "csv").mkdir()
    for name, rows in (("train", range(36)), ("val", range(36, 48)), ("test", range(48, n))):
        post_splits.write_csv(root / "csv" / f"{name}.csv", posts.subset(rows), root)
    return root


def part(root: Path, name: str) -> Posts:
    """Return the posts of a part."""
    return post_splits.read_csv(root / "csv" / f"{name}.csv", root)


class WordPredictor:
    """Says the class whose word a text holds (sure), else the one that the mean brightness points to (unsure)."""

    class_names, image_size, preprocessing = CLASS_NAMES, 16, None

    def __init__(self, sure: float = 0.9):
        self.sure, self.asked = sure, []

    def probabilities(self, texts: Sequence[str], images: np.ndarray | None) -> np.ndarray:
        assert images.dtype == np.uint8 and images.shape == (len(texts), 3, 16, 16)
        self.asked.append((tuple(texts), images.copy()))
        found = np.full((len(texts), 3), (1 - self.sure) / 2)
        for row, text, image in zip(found, texts, images, strict=True):
            word = next((c for c, word in enumerate(WORDS) if word in text), None)
            if word is None:
                row[:] = 0.3
                row[int(image.mean()) % 3] = 0.4
            else:
                row[word] = self.sure
        return found


def images_of(posts: Posts, image_size: int, seen: Any = None) -> np.ndarray:
    """Return the pictures squeezed to squares."""
    sized = [np.asarray(Image.open(path).convert("RGB").resize((image_size, image_size))) for path in posts.image_paths]
    return np.stack(sized).transpose(0, 3, 1, 2)


class Workplace:
    """A folder of tiny posts, a cache, and a fake of everything that trains."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.root, self.count = folder, write(folder / "posts"), 0
        self.predictor = WordPredictor()
        self.trained: list[tuple[Any, Posts, Posts]] = []
        monkeypatch.setenv("TAXON_CACHE", str(folder / "cache"))
        monkeypatch.setattr(model, "images_of", images_of)
        monkeypatch.setattr(model, "open_predictor", lambda uri: self.predictor)
        monkeypatch.setattr(model, "train_on", self._train_on)

    def _train_on(self, config: Any, train_rows: Posts, val_rows: Posts, folder: Path) -> WordPredictor:
        assert folder.is_dir()
        self.trained.append((config, train_rows, val_rows))
        return self.predictor

    def data(self, **options: Any) -> dict[str, Any]:
        """Return the options that name the data."""
        return {"data_dir": str(self.root / "csv"), "data_root": str(self.root)} | options

    def run(self) -> MemoryRun:
        """Return a run of its own."""
        self.count += 1
        place = self.folder / f"run{self.count}"
        place.mkdir()
        return MemoryRun(place)


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
