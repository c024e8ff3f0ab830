"""The 61 crop disease classes in AI Challenger's layout, with tiny generated pictures and a long tail."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from core.data.ai_challenger_classes import CLASSES

RARE = {44: 2, 45: 1}  # training images of the two classes that hardly exist
SEVERITY_STRIPES = {"healthy": 0, "general": 1, "serious": 3, "none": 2}


@dataclass(frozen=True)
class Part:
    """One part on disk: folder with `images/`, annotation JSON, list file with backslashes, labels in file order."""

    folder: Path
    annotations: Path
    listing: Path
    labels: tuple[int, ...]

    @property
    def images(self) -> Path:
        """Return the folder of the pictures."""
        return self.folder / "images"


def train_counts(largest: int = 8) -> list[int]:
    """Return the training images of each label: `largest` for the first, falling to 2, and those of RARE."""
    return [RARE.get(label, max(2, round(largest * 0.96**label))) for label in range(len(CLASSES))]


def val_counts() -> list[int]:
    """Return one image a label, but none of 45."""
    return [0 if label == 45 else 1 for label in range(len(CLASSES))]


def picture(label: int, rng: np.random.Generator, size: int = 16) -> np.ndarray:
    """Return a noisy (size, size, 3) picture: the crop is its colour, the disease its shade, the severity its stripes."""
    facts = CLASSES[label]
    crop, disease = int(facts["crop_id"]), int(facts["disease_id"])
    colour = np.array([40 + 20 * crop, 220 - 20 * crop, 60 + 25 * (crop % 5)], np.float64)
    pixels = np.tile(colour * (0.5 + disease / 56), (size, size, 1))
    for stripe in range(SEVERITY_STRIPES[facts["severity"]]):
        pixels[:, 2 + 4 * stripe : 4 + 4 * stripe] = (250, 240, 40)
    return np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)


def make_part(root: Path, name: str, counts: list[int], rng: np.random.Generator) -> Part:
    """Write `root/AgriculturalDisease_<name>set/` and return what lies there; files are called '<label>_<number>.jpg'."""
    folder = root / f"AgriculturalDisease_{name}set"
    (folder / "images").mkdir(parents=True)
    labels = tuple(int(label) for label in rng.permutation(np.repeat(np.arange(len(counts)), counts)))
    files = []
    for label in labels:
        files.append(f"{label}_{labels[: len(files)].count(label)}.jpg")
        Image.fromarray(picture(label, rng)).save(folder / "images" / files[-1], quality=95)
    annotations = folder / f"AgriculturalDisease_{name}_annotations.json"
    items = [{"disease_class": label, "image_id": file} for label, file in zip(labels, files, strict=True)]
    annotations.write_text(json.dumps(items))
    listing = folder / f"{name}_list.txt"
    listing.write_text("".join(f"images\\{file} {label}\r\n" for label, file in zip(labels, files, strict=True)))
    return Part(folder, annotations, listing, labels)


def make(root: Path, largest: int = 8, seed: int = 0) -> dict[str, Part]:
    """Write the parts train, val and test below `root`; class 45 has no validation image, 44 has one."""
    rng = np.random.default_rng(seed)
    return {
        "train": make_part(root, "training", train_counts(largest), rng),
        "val": make_part(root, "validation", val_counts(), rng),
        "test": make_part(root, "test", val_counts(), rng),
    }
