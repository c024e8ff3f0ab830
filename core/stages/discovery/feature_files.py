"""Features on disk: `features.safetensors` (arrays) and `features.json` (ids, names, digests, transform); never a pickle."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from core import digest
from core.errors import UserError
from core.finite import require_finite
from core.stages.discovery.materials import Materials

SPLITS = ("labelled", "validation", "unlabelled", "test", "left_out")


@dataclass(frozen=True)
class FeatureFile:
    """Features of the training images as a clustering needs them, and what they are of.

    Attributes:
        features: (N, d) float32 of the training images, in their order.
        labels: (N,) class of labelled images, -1 elsewhere: truth of unlabelled images is not in the file.
        split: (N,) index into SPLITS.
        ids: N image ids.
        about: digests, transform, counts.
        digest: of the arrays.
    """

    features: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    ids: tuple[str, ...]
    about: dict[str, Any]
    digest: str


def write(
    folder: Path, m: Materials, train: np.ndarray, test: np.ndarray, facts: dict[str, Any], weights_digest: str, use_l2: bool
) -> None:
    """Write the features of training and test images with per-image id, label where labelled, whether people gave a class, and split."""
    for features, part in ((train, "training"), (test, "test")):
        require_finite(features, f"the features of the {part} images", "training has diverged (lower lr) or its weights are damaged")
    folder.mkdir(parents=True, exist_ok=True)
    n = len(train)
    split = np.full(n + len(test), SPLITS.index("test"), np.int64)
    split[:n] = SPLITS.index("left_out")
    for name in ("labelled", "validation", "unlabelled"):
        split[getattr(m.split, name)] = SPLITS.index(name)
    labels = np.concatenate([m.data.train.labels, m.data.test.labels])
    arrays = {
        "features": np.concatenate([train, test]).astype(np.float32),
        "labels": np.where(split == SPLITS.index("labelled"), labels, -1),
        "known": (labels >= 0).astype(np.uint8),
        "split": split,
    }
    save_file(arrays, folder / "features.safetensors")
    about = {
        "ids": [*m.data.train.ids, *m.data.test.ids],
        "n_train": n,
        "splits": SPLITS,
        "class_names": facts["class_names"],
        "known_classes": facts["known_classes"],
        "counts": {name: int((split == index).sum()) for index, name in enumerate(SPLITS) if name != "left_out" or (split == index).any()},
        "data": m.data.name,
        "data_digest": m.data.digest,
        "split_digest": m.split.digest,
        "seed": m.split.seed,
        "weights_digest": weights_digest,
        "trunk_digest": facts["trunk_digest"],
        "transform": {"kind": "evaluation", **dataclasses.asdict(m.spec)},
        "l2_normalised": use_l2,
        "arrays_sha256": digest.of_file(folder / "features.safetensors"),
    }
    (folder / "features.json").write_text(json.dumps(about, indent=1) + "\n")


def read(folder: Path) -> FeatureFile:
    """Read the training images' part; raise UserError when the files are missing, damaged or do not belong together."""
    try:
        about = json.loads((folder / "features.json").read_text())
        arrays = load_file(folder / "features.safetensors")
        if digest.of_file(folder / "features.safetensors") != about["arrays_sha256"]:
            raise ValueError("checksum differs")
        n = about["n_train"]
        require_finite(arrays["features"], f"the features in '{folder}'", "extract those of a checkpoint that has not diverged")
        return FeatureFile(
            arrays["features"][:n], arrays["labels"][:n], arrays["split"][:n], tuple(about["ids"][:n]), about, about["arrays_sha256"]
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"features in '{folder}' cannot be read ({str(error).splitlines()[0][:80]}); run cache_features again") from None
