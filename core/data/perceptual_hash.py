"""Which pictures look the same: 256-bit difference hashes compared by how many bits differ, since saving again flips some."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

# Of 3,600 pictures of posts: re-saved at JPEG quality 70 or at 3/4 size, 94 to 97 % differ in 8 bits or less; the same picture in two
# posts in 5 at most; different pictures in 14 or more, and below 21 only those that are mostly one plain surface.
MOST_BITS = 10
_BYTES = 32
_BLOCK = 256  # rows compared at once
_SIDE = 16
ENOUGH = (16 * _SIDE, 16 * _SIDE)  # pixels that a large JPEG need not be decoded beyond
_LEAST = 16  # bits of 256 that must differ: a plain surface looks like every other one


def look(image: Image.Image) -> str:
    """Return the difference hash of a picture, 64 hexadecimal digits; '' for a plain surface.

    Is each of 16x16 cells brighter than its left neighbour? Pictures that were saved again, at another quality or size, keep all but
    a few bits.
    """
    grey = image.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BILINEAR)
    levels = np.asarray(grey).astype(np.int16)
    bits = levels[:, 1:] > levels[:, :-1]
    plain = min(bits.sum(), bits.size - bits.sum()) < _LEAST
    return "" if plain else np.packbits(bits).tobytes().hex()


def alike(ours: Sequence[str], theirs: Sequence[str]) -> np.ndarray:
    """Return (P,2) int64 pairs (i, j), sorted, where ours[i] and theirs[j] show the same picture.

    A look that is mostly zeros or mostly ones holds little: it may differ in a third of its rarer bits at most, lest plain
    surfaces are all one.

    Args:
        ours, theirs: what `look` returns; '' (a plain picture) is like nothing, itself neither.
    """
    (rows, one), (columns, other) = packed(ours), packed(theirs)
    allowed, allowed_other = _allowed(one), _allowed(other)
    found = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(one), _BLOCK):
        part = slice(start, start + _BLOCK)
        distances = np.bitwise_count(one[part, None] ^ other[None]).sum(axis=2, dtype=np.int64)
        i, j = np.nonzero(distances <= np.minimum(allowed[part, None], allowed_other[None]))
        found.append(np.stack([rows[start + i], columns[j]], axis=1))
    return np.concatenate(found)


def packed(looks: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions (M,) of looks that are not '' and their (M,4) uint64 bits."""
    known = [i for i, look in enumerate(looks) if look]
    content = b"".join(bytes.fromhex(looks[i]) for i in known)
    return np.array(known, np.int64), np.frombuffer(content, np.uint64).reshape(-1, _BYTES // 8)


def _allowed(bits: np.ndarray) -> np.ndarray:
    ones = np.bitwise_count(bits).sum(axis=1, dtype=np.int64)
    return np.minimum(MOST_BITS, np.minimum(ones, 8 * _BYTES - ones) // 3)
