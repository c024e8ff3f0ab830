"""Small answers for tests: blobs on a sphere, some of them labelled."""

from __future__ import annotations

from typing import Any

import numpy as np

from core.clustering.kmeans import semi_supervised_kmeans
from core.evaluation.answering import Made, Rows, category_names, make

KNOWN = ("oak", "pine")


def blobs(sizes: tuple[int, ...] = (60, 50, 40), seed: int = 0, spread: float = 0.25, d: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Return unit features (N, d) float32 around orthogonal centres, and the blob (N,) of each."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    points = np.eye(d)[truth] + spread * rng.normal(size=(len(truth), d)) / np.sqrt(d) * 2
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32), truth


def made(sizes: tuple[int, ...] = (60, 50, 40), n_clusters: int = 3, seed: int = 0, spread: float = 0.25, **more: Any) -> Made:
    """Return the answer for blobs of which the first two are labelled classes: every third image is labelled, every fifth held out."""
    features, truth = blobs(sizes, seed, spread)
    n = len(truth)
    known = truth < len(KNOWN)
    labelled, held_out = known & (np.arange(n) % 3 == 0), known & (np.arange(n) % 5 == 1) & (np.arange(n) % 3 > 0)
    used = np.flatnonzero(~held_out)
    rng = np.random.default_rng(seed)
    found = semi_supervised_kmeans(features[used], np.where(labelled, truth, -1)[used], labelled[used], n_clusters, rng)
    clusters = (features @ found.centres.T - (found.centres**2).sum(axis=1) / 2).argmax(axis=1)
    parts = np.where(labelled, "labelled", np.where(held_out, "validation", "unlabelled")).tolist()
    told = tuple(KNOWN[truth[i]] if part != "unlabelled" else "" for i, part in enumerate(parts))
    ids = tuple(f"train/{i:05d}" for i in range(n))
    rows = Rows(ids, tuple(f"images/{i}.png" for i in range(n)), tuple(f"{i:064x}" for i in range(n)), told, tuple(parts), alone(n))
    rows = more.pop("change", lambda rows: rows)(rows)
    return make(rows, features, clusters, found.centres, category_names(KNOWN, clusters, n_clusters), len(KNOWN), seed, **more)


def alone(n: int) -> np.ndarray:
    """Return the groups of n images without near-duplicates."""
    return np.full(n, -1, np.int64)
