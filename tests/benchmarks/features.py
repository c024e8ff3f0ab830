"""Real features for tests and benchmarks: frozen MobileNetV2 features of one CIFAR-100 superclass.

Needs `data_root` with `data/cifar-100-binary.tar.xz` (or `.tar.gz`, or the unpacked folder) and `weights/mobilenetv2_100.safetensors`.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.errors import UserError

DATA_ROOT = Path(os.environ.get("TAXON_SHARED") or Path(__file__).resolve().parents[2].parent / "shared")
TREES = ((47, 52, 56, 59), (96,))
RECORD = 2 + 3 * 32 * 32


class Features(NamedTuple):
    """`features` (N, d) float32, L2-normalised, mean-centred, L2-normalised again; `truth` (N,) fine ids; `labelled_mask` (N,) bool."""

    features: np.ndarray
    truth: np.ndarray
    labelled_mask: np.ndarray


def _train_records(data_root: Path) -> np.ndarray:
    """Return the publisher's training records, (50000, 3074) uint8: coarse id, fine id, RGB planes."""
    folder = data_root / "data" / "cifar-100-binary"
    if (folder / "train.bin").exists():
        raw = (folder / "train.bin").read_bytes()
    else:
        archives = [path for suffix in (".tar.xz", ".tar.gz") if (path := folder.with_name(folder.name + suffix)).exists()]
        if not archives:
            raise UserError(f"no CIFAR-100 at {folder}[.tar.xz|.tar.gz]; pass the folder that holds data/ and weights/ as data_root")
        with tarfile.open(archives[0]) as archive:
            member = next(item for item in archive if Path(item.name).name == "train.bin")
            raw = archive.extractfile(member).read()
    return np.frombuffer(raw, np.uint8).reshape(-1, RECORD)


def _embed(pixels: np.ndarray, weights: Path, image_size: int) -> np.ndarray:
    """Return pooled MobileNetV2 features (N, 1280) of `pixels` (N, 3, 32, 32) uint8, resized bicubically."""
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    model = timm.create_model("mobilenetv2_100", pretrained=False, num_classes=0)
    model.load_state_dict(load_file(str(weights)))
    model.eval()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), 100):
            images = [
                Image.fromarray(one.transpose(1, 2, 0)).resize((image_size, image_size), Image.BICUBIC)
                for one in pixels[start : start + 100]
            ]
            batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
            parts.append(model((batch - mean) / std).numpy())
    return np.concatenate(parts)


def superclass_features(
    data_root: str | Path | None = None,
    known: tuple[int, ...] = TREES[0],
    novel: tuple[int, ...] = TREES[1],
    labelled_share: float = 0.8,
    seed: int = 1,
    image_size: int = 96,
) -> Features:
    """Return features of all training images of the classes; `labelled_share` of the known ones are labelled, drawn by `seed`.

    Raises UserError when `data_root` (default: ../shared beside the repository) lacks the data or the weights.
    """
    root = Path(data_root) if data_root is not None else DATA_ROOT
    weights = root / "weights" / "mobilenetv2_100.safetensors"
    if not weights.exists():
        raise UserError(f"no weights at {weights}; pass the folder that holds data/ and weights/ as data_root")
    records = _train_records(root)
    records = records[np.isin(records[:, 1], known + novel)]
    truth = records[:, 1].astype(np.int64)
    embedded = _embed(records[:, 2:].reshape(-1, 3, 32, 32), weights, image_size).astype(np.float64)
    embedded /= np.linalg.norm(embedded, axis=1, keepdims=True)
    embedded -= embedded.mean(axis=0)
    embedded /= np.linalg.norm(embedded, axis=1, keepdims=True)
    pool = np.flatnonzero(np.isin(truth, known))
    mask = np.zeros(len(truth), bool)
    mask[np.random.default_rng(seed).choice(pool, round(labelled_share * len(pool)), replace=False)] = True
    return Features(embedded.astype(np.float32), truth, mask)
