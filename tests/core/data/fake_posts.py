"""A folder of tiny posts, as their publisher lays it out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

TAGS = ("negative", "neutral", "positive")


def picture(path: Path, seed: int, size: tuple[int, int] = (24, 20), quality: int = 90) -> None:
    """Write a smooth random JPEG; the same seed shows the same at every size and quality."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    coarse.resize(size, Image.Resampling.BICUBIC).save(path, "JPEG", quality=quality)


def write(root: Path, n: int = 30, n_predict: int = 4, delimiter: str = ",") -> Path:
    """Write `n` labelled posts 1..n and `n_predict` posts without tag after them; return `root`."""
    (root / "data").mkdir(parents=True)
    guids = [str(i) for i in range(1, n + n_predict + 1)]
    for i, guid in enumerate(guids):
        picture(root / "data" / f"{guid}.jpg", i)
        (root / "data" / f"{guid}.txt").write_text(f"post number {guid} \n")
    rows = [f"{guid}{delimiter}{TAGS[i % 3]}" for i, guid in enumerate(guids[:n])]
    (root / "train.txt").write_text("\n".join([f"guid{delimiter}tag", *rows]) + "\n")
    rows = [f"{guid}{delimiter}null" for guid in guids[n:]]
    (root / "test_without_label.txt").write_text("\n".join([f"guid{delimiter}tag", *rows]) + "\n")
    return root
