"""Posts whose class is written in text and picture, and a training on them that takes a moment."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.data.post_splits import read_csv
from core.data.posts import Posts
from core.stages.posts import checks, materials, optimize
from core.stages.posts.config import OptimizeClipConfig
from tests.memory_run import MemoryRun

WORDS = {"negative": "sad bad awful tears", "neutral": "desk chair table lamp", "positive": "happy good lovely smile"}
COLOURS = {"negative": (30, 30, 160), "neutral": (120, 120, 120), "positive": (220, 180, 40)}
COUNTS = {"train": (12, 6, 18), "val": (4, 4, 4), "test": (4, 4, 4)}


def write(root: Path) -> Path:
    """Write root/data/*.png and root/{train,val,test,predict}.csv; return `root`."""
    rng = np.random.default_rng(0)
    (root / "data").mkdir(parents=True)
    number = 0
    for part, counts in COUNTS.items():
        rows = []
        for label, count in zip(WORDS, counts, strict=True):
            for _ in range(count):
                number += 1
                words = rng.permutation(WORDS[label].split())
                text = f"{words[0]} {words[1]} @friend http://t.co/{number} number {number}"
                pixels = np.clip(np.array(COLOURS[label]) + rng.normal(0, 40, (20, 26, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / "data" / f"{number}.png")
                rows.append([str(number), text, f"data/{number}.png", label])
        _table(root / f"{part}.csv", rows)
        if part == "test":
            _table(root / "predict.csv", [[*row[:3], ""] for row in reversed(rows)])
    return root


def _table(path: Path, rows: list[list[str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["guid", "text", "image_path", "label"], *rows])


def config(root: Path, **options: Any) -> OptimizeClipConfig:
    """Return a checked configuration of a tiny training."""
    tiny = {
        "data_dir": str(root),
        "data_root": str(root),
        "image_encoder_name": "small_cnn",
        "text_encoder_name": "clip:small-32x1",
        "context_length": 12,
        "embed_dim": 16,
        "image_size": 16,
        "epochs": 2,
        "batch_size": 8,
        "early_stop": 0,
        "cached_views": 1,
        "num_workers": 1,
        "threads": 1,
        "gpu": "cpu",
        "use_amp": False,
        "register": False,
    }
    return checks.check_training(OptimizeClipConfig(**tiny | options))


def parts(root: Path) -> dict[str, Posts]:
    """Return the posts by part."""
    return {part: read_csv(root / f"{part}.csv", root) for part in COUNTS}


def fitted(root: Path, work: Path, stop_after: int = 0, **options: Any) -> optimize.PostsTraining:
    """Return a training after its last epoch (or after `stop_after`), not published."""
    made = config(root, **options)
    work.mkdir(parents=True, exist_ok=True)
    training = optimize.PostsTraining(made, materials.load_rows(made), MemoryRun(work / "run"), "", work)
    if stop_after:
        training.exhausted = lambda: bool(training.history) and training.history[-1][0] >= stop_after
    training.fit()
    return training
