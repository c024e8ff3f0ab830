"""Digests: the one definition of 'the same' for arrays, tensors, files and settings."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np


def of_bytes(*parts: bytes | memoryview) -> str:
    """Return the sha256 (hex) of the length-prefixed parts, so that ('ab','c') and ('a','bc') differ."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def of_array(array: np.ndarray) -> str:
    """Return the sha256 of dtype, shape and C-order bytes of `array`."""
    array = np.ascontiguousarray(array)
    return of_bytes(str(array.dtype).encode(), str(array.shape).encode(), array.reshape(-1).view(np.uint8).data)


def of_json(value: Any) -> str:
    """Return the sha256 of the canonical JSON (sorted keys, no spaces) of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_read: dict[tuple[str, int, int, int], str] = {}


def of_file_once(path: str | Path) -> str:
    """Return `of_file`, '' where there is no file; one that this process has read is read again only when its size or time differ."""
    try:
        status = Path(path).stat()
    except OSError:
        return ""
    if not stat.S_ISREG(status.st_mode):
        return ""
    known = str(path), status.st_ino, status.st_size, status.st_mtime_ns
    if known not in _read:
        _read[known] = of_file(path)
    return _read[known]


def of_file(path: str | Path) -> str:
    """Return the sha256 of a file's bytes, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entry_of(data: bytes) -> dict[str, Any]:
    """Return what vouches for a file of these bytes: their number and sha256."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def is_vouched(path: Path, entry: dict[str, Any]) -> bool:
    """Say whether a file is the one that an entry (`size`, `sha256`) stands for, or the one that takes its place (`instead`)."""
    entries = [entry, entry["instead"]] if "instead" in entry else [entry]
    if not path.is_file() or path.stat().st_size not in {one["size"] for one in entries}:
        return False
    found = of_file(path)
    return any(one["sha256"] == found for one in entries)
