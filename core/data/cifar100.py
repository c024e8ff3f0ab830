"""CIFAR-100 (Krizhevsky 2009) from the publisher's binary version: a folder, its archive, or a download.

A record is 1 byte coarse label, 1 byte fine label and 3,072 bytes of 32x32 RGB planes. The pickled Python version is never read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.data import archives
from core.data.images import ArrayImages, DiscoveryData, ImageSet
from core.data.superclasses import find
from core.errors import UserError

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
MD5 = "03b5dce01913d631647c71ecec9e9cb8"
FOLDER = "cifar-100-binary"
FILES = ("train.bin", "test.bin", "fine_label_names.txt", "coarse_label_names.txt")
RECORD_BYTES = 2 + 3 * 32 * 32
PUBLISHED_COUNTS = (50_000, 10_000)


def load_superclass(
    data_root: str | Path,
    name: str,
    download: bool = False,
    *,
    expected: tuple[int, int] | None = PUBLISHED_COUNTS,
    url: str = URL,
    md5: str = MD5,
) -> DiscoveryData:
    """Return the images of one superclass ('all' = the whole of CIFAR-100).

    Class indices follow ascending fine ids; image ids carry the number of the record in its file ('train/00042').
    expected: records in train.bin and test.bin (None = any number). Raises UserError for missing, truncated or foreign files.
    """
    superclass = find(name)
    folder = locate(data_root, download, url, md5)
    names = _fine_names(folder / "fine_label_names.txt")
    counts = expected or (None, None)
    train, test = (_read(folder, part, superclass.fine_ids, count) for part, count in zip(("train", "test"), counts, strict=True))
    known = frozenset(i for i, fine in enumerate(superclass.fine_ids) if fine in superclass.known)
    return DiscoveryData(f"cifar100/{name}", train, test, tuple(names[fine] for fine in superclass.fine_ids), known)


def locate(data_root: str | Path, download: bool = False, url: str = URL, md5: str = MD5) -> Path:
    """Return the folder of the binary version, unpacking or downloading it into the cache when it must be.

    Looked for, in this order: data_root itself, its folder or archive (.tar.gz, .tar.xz), an earlier download, the publisher.
    """
    root = Path(data_root).expanduser() if str(data_root) else None
    if root is not None:
        for folder in (root, root / FOLDER):
            if any((folder / part).is_file() for part in ("train.bin", "test.bin")):
                return folder
        for archive in (root / f"{FOLDER}.tar.gz", root / f"{FOLDER}.tar.xz", root):
            if archive.is_file():
                return _unpacked(archive)
    cached = archives.cache_root() / f"{FOLDER}-{md5}"
    if archives.is_complete(cached, FILES):
        return cached
    where = root if root is not None else "a folder given as data_root"
    remedy = f"fetch {URL} on a machine with network and put it into {where}, or use dataset=digits, which needs no download"
    if download:
        with archives.scratch_folder(cached.parent) as scratch:
            archive = archives.download(url, md5, scratch / f"{FOLDER}.tar.gz", remedy)
            return archives.unpack(archive, FOLDER, FILES, cached)
    pickled = root is not None and any((root / f"cifar-100-python{end}").exists() for end in ("", ".tar.gz"))
    found = "only the pickled Python version of CIFAR-100, which is never read," if pickled else f"no {FOLDER} folder or archive"
    raise UserError(f"{found} in data_root '{data_root}': allow the download, or {remedy}")


def _unpacked(archive: Path) -> Path:
    """Return the cached folder of an archive; name, size and time of change say whether it is the one unpacked before."""
    stat = archive.stat()
    target = archives.cache_root() / f"{archive.name}-{stat.st_size}-{stat.st_mtime_ns}"
    return archives.unpack(archive, FOLDER, FILES, target)


def _read(folder: Path, part: str, fine_ids: tuple[int, ...], expected: int | None) -> ImageSet:
    """Return the records of the wanted classes, in file order."""
    records = _records(folder / f"{part}.bin", expected)
    fine = np.asarray(records[:, 1])
    wanted = np.flatnonzero(np.isin(fine, fine_ids))
    pixels = np.empty((len(wanted), 32, 32, 3), np.uint8)
    # A few thousand records at a time: the whole of CIFAR-100 would need three copies at once otherwise.
    for start in range(0, len(wanted), 4096):
        rows = wanted[start : start + 4096]
        pixels[start : start + len(rows)] = records[rows, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.searchsorted(fine_ids, fine[wanted]).astype(np.int64)
    return ImageSet(tuple(f"{part}/{i:05d}" for i in wanted), labels, ArrayImages(pixels))


def _records(path: Path, expected: int | None) -> np.ndarray:
    """Return the file as (N,3074) uint8 (mapped, not read); UserError when it is not a whole file of such records."""
    remedy = f"remove {path.parent} and fetch or unpack the publisher's archive again ({URL})"
    try:
        size = path.stat().st_size
        if not size or size % RECORD_BYTES:
            raise UserError(
                f"{path} has {size} bytes, which is no whole number of {RECORD_BYTES}-byte records: it is cut off or foreign; {remedy}"
            )
        records = np.memmap(path, np.uint8, mode="r").reshape(-1, RECORD_BYTES)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {remedy}") from None
    if expected is not None and len(records) != expected:
        raise UserError(f"{path} has {len(records)} records, expected {expected}: {remedy}")
    if records[:, 0].max() >= 20 or records[:, 1].max() >= 100:
        raise UserError(f"{path} holds labels outside CIFAR-100's (coarse 0..19, fine 0..99): it is a foreign file; {remedy}")
    return records


def _fine_names(path: Path) -> list[str]:
    """Return the 100 fine class names in label order; UserError when the file is missing or another."""
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it from the publisher's archive ({URL})") from None
    if len(set(names)) != 100:
        raise UserError(f"{path} holds {len(set(names))} different names, expected 100: restore it from the publisher's archive ({URL})")
    return names
