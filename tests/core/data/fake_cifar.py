"""Small files in CIFAR-100's binary layout: one record of each fine class, or as many as asked for."""

import io
import tarfile
from pathlib import Path

import numpy as np

from core.data.cifar100 import FOLDER


def records(per_class: int, seed: int = 0) -> np.ndarray:
    """Return (100 * per_class, 3074) uint8 records in shuffled order."""
    rng = np.random.default_rng(seed)
    fine = rng.permutation(np.repeat(np.arange(100), per_class))
    pixels = rng.integers(0, 256, (len(fine), 3072))
    return np.column_stack([fine // 5, fine, pixels]).astype(np.uint8)


def contents(train_per_class: int = 2, test_per_class: int = 1) -> dict[str, bytes]:
    """Return the four files by name."""
    return {
        "train.bin": records(train_per_class, 1).tobytes(),
        "test.bin": records(test_per_class, 2).tobytes(),
        "fine_label_names.txt": "".join(f"fine_{i:02d}\n" for i in range(100)).encode(),
        "coarse_label_names.txt": "".join(f"coarse_{i:02d}\n" for i in range(20)).encode(),
    }


def write_folder(folder: Path, **kwargs: int) -> Path:
    """Write the four files into `folder` and return it."""
    folder.mkdir(parents=True)
    for name, content in contents(**kwargs).items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path: Path, members: dict[str, bytes] | None = None, extra: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    """Write a .tar.gz or .tar.xz with the members (default: a whole small CIFAR-100) and extra content-less members."""
    if members is None:
        members = {f"{FOLDER}/{name}": content for name, content in contents().items()}
    with tarfile.open(path, f"w:{path.suffix[1:]}") as tar:
        for info in extra:
            tar.addfile(info)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
