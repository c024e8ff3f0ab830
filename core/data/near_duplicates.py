"""Groups of images that show the same picture, by their difference hashes: exact with respect to the bits that may differ, and never
by comparing all pairs.

Candidates come from multi-index hashing (Norouzi, Punjani and Fleet 2012, "Fast search in Hamming space with multi-index hashing"): of
two hashes that differ in at most n bits, one of n + 1 disjoint blocks is the same in both, by the pigeonhole principle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from core.data import perceptual_hash
from core.data.decoding import read_rgb
from core.data.images import DECODE_THREADS, FileImages, ImageSource
from core.data.perceptual_hash import ENOUGH, MOST_BITS
from core.errors import UserError
from core.progress import bar

ALONE = -1
# Of the 50,000 CIFAR-100 training images (32 px), pairs within 4 bits are 25 of one picture and none of two, from 5 bits on sunsets and
# bottles on white appear; among 1,347 digits (8 px) many different ones have one hash. Of 3,672 leaves (160 px), pairs are the same
# picture up to 11 bits and none differs in 12 to 24.
SMALL, SMALL_BITS = 64, 4
LEAST_SIDE = 16
_RARE_SHARE = 10  # bits of the rarer kind that there must be for each that may differ: a bottle on white is mostly white
# Plain pictures are alike in most blocks; they may differ in few bits and so have few, long blocks, which tell them apart.
_TIERS = ((0, 0), (1, 1), (2, 2), (3, 3), (4, 5), (6, MOST_BITS))  # bits that may differ, from and to
_FEW = 64  # hashes of one bucket whose pairs are all looked at
_STARTS = 64  # hashes of a larger bucket that are compared with all of it, before it is divided once more
_DEEPEST = 3  # blocks that hashes which are compared one by one have in common
_READ = 256  # images that are in memory at once


def find(source: ImageSource, contents: Sequence[str]) -> np.ndarray:
    """Return (N,) int64 numbers of the groups of near-duplicates among the images of a source, ALONE where an image has none.

    contents: (N,) sha256 of each image; equal ones are always of one group.
    """
    return groups(hashes(source), contents)


def hashes(source: ImageSource) -> list[tuple[str, int]]:
    """Return (look, shorter side in pixels) of every image; UserError where a file has become unreadable."""
    if isinstance(source, FileImages):
        with ThreadPoolExecutor(DECODE_THREADS) as pool:
            return list(bar(pool.map(_hash_of_file, source.paths), "comparing images", total=len(source)))
    found = []
    for start in bar(range(0, len(source), _READ), "comparing images"):
        images = source.load(np.arange(start, min(start + _READ, len(source))))
        found += [(perceptual_hash.look(Image.fromarray(image)), min(image.shape[:2])) for image in images]
    return found


def _hash_of_file(path: Path) -> tuple[str, int]:
    try:
        image = read_rgb(path, draft=ENOUGH)
    except Exception as error:  # Pillow raises almost anything on damaged files
        raise UserError(f"{path}: not a readable image ({' '.join(str(error).split())[:120]}); it was readable before") from None
    return perceptual_hash.look(image), min(image.size)


def groups(hashed: Sequence[tuple[str, int]], contents: Sequence[str]) -> np.ndarray:
    """Return (N,) int64 group numbers, from 0 in the order of each group's first image; ALONE where an image has no near-duplicate.

    Images are of one group where a chain of pairs joins them, each pair of one content or within the bits that both may differ in: 10 of
    256, 4 where the shorter side is below 64 pixels, 0 contents only below 16; fewer for plain surfaces.

    Args:
        hashed: what `hashes` returns.
        contents: (N,) sha256 of each image; '' = unknown.
    """
    ids = {content: number for number, content in enumerate(dict.fromkeys(contents))}
    n = len(hashed)
    edges = [_chained(np.array([ids[c] if c else -1 - i for i, c in enumerate(contents)], np.int64))]
    rows, bits = perceptual_hash.packed([look if side >= LEAST_SIDE else "" for look, side in hashed])
    sides = np.array([hashed[row][1] for row in rows], np.int64)
    edges.append(rows[pairs(bits, allowed(bits, sides))])
    joined = np.concatenate(edges)
    links = coo_array((np.ones(len(joined), np.int8), (joined[:, 0], joined[:, 1])), shape=(n, n))
    _, component = connected_components(links, directed=False)
    sizes = np.bincount(component, minlength=1)
    numbers = np.full(n, ALONE, np.int64)
    grouped = np.flatnonzero(sizes[component] > 1)
    _, first, inverse = np.unique(component[grouped], return_index=True, return_inverse=True)
    numbers[grouped] = np.argsort(np.argsort(first))[inverse]
    return numbers


def allowed(bits: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Return (M,) int64: in how many bits a near-duplicate of each hash (M,4) of an image of so many pixels (M,) may differ."""
    ones = np.bitwise_count(bits).sum(axis=1, dtype=np.int64)
    rarer = np.minimum(ones, 64 * bits.shape[1] - ones)
    return np.minimum(np.where(sides < SMALL, SMALL_BITS, MOST_BITS), rarer // _RARE_SHARE)


def pairs(bits: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Return (P,2) int64 pairs of rows that join every two hashes (M,4) uint64 which differ in at most the smaller of their `most` bits.

    Pairs that others join already may be left out. `most` (M,) is at most MOST_BITS. Time grows as M log M times the blocks; hashes that
    have _DEEPEST blocks in common without being alike are compared one by one, and pictures seldom have.
    """
    keyed = np.concatenate([bits, most.astype(np.uint64)[:, None]], axis=1)
    _, where, copies = np.unique(keyed, axis=0, return_index=True, return_inverse=True)
    looks = _Looks(bits[where], most[where], np.unpackbits(bits[where].view(np.uint8), axis=1))
    joined = [_chained(copies.reshape(-1))]
    for least, highest in _TIERS:
        if ((looks.most >= least) & (looks.most <= highest)).any():
            rows = np.flatnonzero(looks.most >= least)
            joined += [where[pair] for pair in _search(looks, rows, np.arange(looks.unpacked.shape[1]), highest)]
    return np.concatenate(joined)


@dataclass(frozen=True)
class _Looks:
    """Hashes: bits (M,4) uint64, in how many each may differ (M,), and each bit as a byte (M,256)."""

    bits: np.ndarray
    most: np.ndarray
    unpacked: np.ndarray


def _search(looks: _Looks, rows: np.ndarray, columns: np.ndarray, highest: int, depth: int = 1) -> Iterator[np.ndarray]:
    """Yield pairs that join the rows which differ in at most `highest` of the bits `columns`, and in no other ones, where either may."""
    for block in range(highest + 1):
        own = columns[block :: highest + 1]
        order, start, size = _buckets(np.packbits(looks.unpacked[rows[:, None], own], axis=1))
        order = rows[order]
        met = (size > 1) & (np.minimum.reduceat(looks.most[order], start) <= highest)
        start, size = start[met], size[met]
        yield from _in_small(looks.bits, looks.most, order, start, size)
        for s, n in zip(start[size > _FEW], size[size > _FEW], strict=True):
            found, left = _in_large(looks.bits, looks.most, order[s : s + n], _STARTS if depth < _DEEPEST else n)
            yield found
            if len(left):
                yield from _search(looks, left, np.setdiff1d(columns, own), highest, depth + 1)


def _chained(ids: np.ndarray) -> np.ndarray:
    """Return (P,2) pairs that join the rows of equal ids (M,), each to the next."""
    order = np.argsort(ids, kind="stable")
    same = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    return np.stack([order[same], order[same + 1]], axis=1).astype(np.int64)


def _buckets(block: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of `block` (M, bytes) in order of their content, and start and size in it of each bucket of equal ones."""
    padded = np.zeros((len(block), -(-block.shape[1] // 8) * 8), np.uint8)
    padded[:, : block.shape[1]] = block
    keys = padded.view(np.uint64)
    order = np.lexsort(keys.T)
    start = np.concatenate([[0], np.flatnonzero((keys[order][1:] != keys[order][:-1]).any(axis=1)) + 1])
    return order, start, np.diff(start, append=len(order))


def _in_small(bits: np.ndarray, most: np.ndarray, order: np.ndarray, start: np.ndarray, size: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the pairs within buckets of at most _FEW: all at once, those one step apart in the order, then two, ..."""
    start, size = start[size <= _FEW], size[size <= _FEW]
    for step in range(1, int(size.max(initial=1))):
        longer = size > step
        counts = size[longer] - step
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        at = np.repeat(start[longer], counts) + offsets
        i, j = order[at], order[at + step]
        near = _distances(bits[i], bits[j]) <= np.minimum(most[i], most[j])
        yield np.stack([i[near], j[near]], axis=1)


def _in_large(bits: np.ndarray, most: np.ndarray, rows: np.ndarray, starts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs that join what is alike in one large bucket, spreading from image to image, and the rows that it has not come to.

    A row that is joined is not met again; at most `starts` rows begin a spreading.
    """
    found, left = [np.zeros((0, 2), np.int64)], rows
    for _ in range(starts):
        if len(left) < 2:
            return np.concatenate(found), left[:0]
        frontier, left = [left[0]], left[1:]
        while frontier and len(left):
            one = frontier.pop()
            near = _distances(bits[one][None], bits[left]) <= np.minimum(most[one], most[left])
            found.append(np.stack([np.full(near.sum(), one), left[near]], axis=1))
            frontier += left[near].tolist()
            left = left[~near]
    return np.concatenate(found), left


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    counted: np.ndarray = np.bitwise_count(one ^ other).sum(axis=1, dtype=np.int64)
    return counted
