"""Euclidean distances, computed once, and every point's neighbours in order of distance.

One definition of the distance serves all callers: squared distances come from a float64 matrix product, are rounded to 2^-36 of the
largest squared norm (so copies of a point tie exactly, in whatever order a BLAS sums), and their roots are stored as float32. Means over
float32 values are exact or nearly so in float64, which keeps ties ties. Neighbours are ordered by (distance, index), the point itself
left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit

DENSE_LIMIT = 20_000
DEPTH = 256
DEPTH_SHARE = 50
TILE_BYTES = 2**28
ROUNDING = 1.5 * 2.0**52


@njit(cache=True, nogil=True)
def _mirror(matrix: np.ndarray) -> None:
    """Copy the lower triangle of `matrix` (N, N) over the upper one, by squares that stay in the processor's cache."""
    n, side = len(matrix), 64
    for low in range(0, n, side):
        for left in range(0, low + 1, side):
            for i in range(low, min(low + side, n)):
                for j in range(left, min(left + side, i)):
                    matrix[j, i] = matrix[i, j]


@njit(cache=True, nogil=True)
def _to_distances(gram: np.ndarray, norms: np.ndarray, other_norms: np.ndarray, quantum: float, out: np.ndarray) -> None:
    """Write the rounded float32 distances of a tile of inner products `gram` (a, b) into `out` (a, b)."""
    inverse = 1.0 / quantum
    for i in range(gram.shape[0]):
        for j in range(gram.shape[1]):
            # adding and subtracting 1.5 * 2^52 rounds to the nearest whole number, in vector instructions where rint is a call
            steps = ((norms[i] + other_norms[j] - 2.0 * gram[i, j]) * inverse + ROUNDING) - ROUNDING
            squared = steps * quantum
            # not max(): it would keep a negative zero, whose bits sort last
            out[i, j] = np.sqrt(squared) if squared > 0.0 else 0.0


@njit(cache=True, nogil=True)
def _nearest(distances: np.ndarray, points: np.ndarray, order: np.ndarray, nearest: np.ndarray) -> None:
    """Fill `order` and `nearest` (a, depth) for `points` (a,) from their `distances` (a, N), ties to the smaller index.

    A threshold taken from every 16th distance lets about twice `depth` candidates through, and only these are sorted.
    """
    n, depth = distances.shape[1], order.shape[1]
    keys = np.empty(n, np.uint64)
    for row in range(len(points)):
        bits = distances[row].view(np.uint32)
        sample = np.sort(bits[::16])
        allowed = 2 * depth // 16 + 4
        while True:
            limit = sample[allowed] if allowed < len(sample) else np.uint32(0xFFFFFFFF)
            found = 0
            for j in range(n):
                keys[found] = (np.uint64(bits[j]) << np.uint64(32)) | np.uint64(j)
                found += (bits[j] <= limit) & (j != points[row])
            if found >= depth:
                break
            allowed *= 2
        chosen = np.sort(keys[:found])
        for e in range(depth):
            order[row, e] = np.int32(chosen[e] & np.uint64(0xFFFFFFFF))
            nearest[row, e] = distances[row, order[row, e]]


@dataclass(frozen=True)
class Neighbours:
    """The sorted neighbour lists of N points, and their distances on demand.

    points: (N, d) float64 features; order, nearest: (N, depth) indices (int32) and distances (float32) of the nearest others;
    matrix: (N, N) float32 distances, or None when they would not fit and are recomputed; norms: squared norms (N,), rounding step.
    """

    points: np.ndarray
    order: np.ndarray
    nearest: np.ndarray
    matrix: np.ndarray | None
    norms: tuple[np.ndarray, float]

    @property
    def complete(self) -> bool:
        """Whether the lists hold all other points, so that a walk that reaches their end is over."""
        return bool(self.order.shape[1] == len(self.points) - 1)

    @property
    def rows_at_once(self) -> int:
        """How many points may ask for their rows together: N, or as many as fit in TILE_BYTES of float64."""
        return len(self.points) if self.matrix is not None else _tile_rows(len(self.points))

    def block(self, indices: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (matrix, rows, columns): matrix[rows[t], columns[u]] is the distance of indices[t] to others[u]; no copy if held."""
        if self.matrix is not None:
            return self.matrix, indices, others
        norms, quantum = self.norms
        block = np.empty((len(indices), len(others)), np.float32)
        targets = self.points if len(others) == len(self.points) else self.points[others]
        _to_distances(self.points[indices] @ targets.T, norms[indices], norms[others], quantum, block)
        return block, np.arange(len(indices)), np.arange(len(others))

    def blocks(self, indices: np.ndarray, others: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (part, *block) for all indices[part], in as few parts as memory allows; `others` ascending."""
        for start in range(0, len(indices), self.rows_at_once):
            part = slice(start, min(start + self.rows_at_once, len(indices)))
            yield part, *self.block(indices[part], others)


def _tile_rows(n: int) -> int:
    return max(16, TILE_BYTES // (8 * n))


def _norms(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the squared norms (N,) and the rounding step of squared distances, a power of two."""
    norms = np.einsum("ij,ij->i", points, points)
    largest = float(norms.max())
    return norms, 2.0 ** (np.ceil(np.log2(largest)) - 36) if largest > 0 else 1.0


def distance_matrix(points: np.ndarray) -> np.ndarray:
    """Return the (N, N) float32 Euclidean distances of `points` (N, d), symmetric, by tiles of the lower triangle."""
    points = np.ascontiguousarray(points, np.float64)
    n = len(points)
    norms, quantum = _norms(points)
    matrix = np.empty((n, n), np.float32)
    step = min(_tile_rows(n), 1024)
    for start in range(0, n, step):
        stop = min(start + step, n)
        _to_distances(points[start:stop] @ points[:stop].T, norms[start:stop], norms[:stop], quantum, matrix[start:stop, :stop])
    _mirror(matrix)
    return matrix


def build(features: np.ndarray, k: int, dense_limit: int = DENSE_LIMIT) -> Neighbours:
    """Return the neighbour lists of `features` (N, d), at least `k` deep (k < N).

    N^2 memory is used up to `dense_limit` points; above it distances are computed block by block, and again where a list proves too short.
    """
    points = np.ascontiguousarray(features, np.float64)
    n = len(points)
    depth = min(n - 1, max(DEPTH, 4 * k, n // DEPTH_SHARE))
    order, nearest = np.empty((n, depth), np.int32), np.empty((n, depth), np.float32)
    found = Neighbours(points, order, nearest, distance_matrix(points) if n <= dense_limit else None, _norms(points))
    everyone = np.arange(n)
    for part, block, _, _ in found.blocks(everyone, everyone):
        _nearest(block, everyone[part], order[part], nearest[part])
    return found
