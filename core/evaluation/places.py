"""A map of images: alike ones lie together. t-SNE of a sample, all others beside their nearest image of it."""

from __future__ import annotations

import numpy as np

from core.clustering.kmeans import assign

MAPPED = 5000
_DIRECTIONS = 50
_PERPLEXITY = 30.0
_STEPS, _ANGLE = 500, 0.7  # a page's map: half of the default's time, and half again by coarser far neighbourhoods
_FEWEST = 12  # images below which t-SNE has no neighbourhoods to keep
_JITTER = 0.004  # of the map's half side
_ROWS = 4096


def reduced(features: np.ndarray, seed: int, directions: int = _DIRECTIONS) -> np.ndarray:
    """Return (N, <= directions) float32 coordinates of `features` (N, d) in the main directions of a seeded sample of MAPPED."""
    sample = features[sampled(len(features), seed)]
    middle = sample.mean(axis=0, dtype=np.float64)
    centred = sample.astype(np.float64) - middle
    _, vectors = np.linalg.eigh(centred.T @ centred)
    main = vectors[:, ::-1][:, :directions]
    main = main * np.where(main[np.abs(main).argmax(axis=0), np.arange(main.shape[1])] < 0, -1.0, 1.0)  # a direction's sign is arbitrary
    main, shift = main.astype(np.float32), (middle @ main).astype(np.float32)
    found = np.empty((len(features), main.shape[1]), np.float32)
    for start in range(0, len(features), _ROWS):
        found[start : start + _ROWS] = features[start : start + _ROWS] @ main - shift
    return found


def sampled(n: int, seed: int, most: int = MAPPED) -> np.ndarray:
    """Return the sorted indices of a seeded sample of `most` among n, all where there are no more."""
    return np.arange(n) if n <= most else np.sort(np.random.default_rng([seed, 2]).choice(n, most, replace=False))


def places(points: np.ndarray, seed: int) -> np.ndarray:
    """Return (N, 2) float32 within -1..1.

    points: (N, q) what `reduced` returns. A sample of MAPPED is mapped by t-SNE (van der Maaten and Hinton 2008), so that time grows as N;
    every other image lies at its nearest mapped image's place, moved by a little that is drawn from the seed. Fewer than 12 images, or all
    alike, lie along their two main directions.
    """
    chosen = sampled(len(points), seed)
    mapped = _mapped(points[chosen], seed)
    found = np.empty((len(points), 2))
    found[chosen] = mapped
    rest = np.setdiff1d(np.arange(len(points)), chosen)
    if len(rest):
        moved = np.random.default_rng([seed, 3]).normal(0.0, _JITTER, (len(rest), 2))
        found[rest] = mapped[assign(points[rest], points[chosen])] + moved
    return np.clip(found, -1.0, 1.0).astype(np.float32)


def _mapped(points: np.ndarray, seed: int) -> np.ndarray:
    """Return (n, 2) within -1..1."""
    flat = np.zeros((len(points), 2))
    flat[:, : min(2, points.shape[1])] = points[:, :2]
    if len(points) >= _FEWEST and np.ptp(points, axis=0).max() > 1e-6:
        from sklearn.manifold import TSNE

        perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
        flat = (
            TSNE(perplexity=perplexity, init="pca", max_iter=_STEPS, angle=_ANGLE, random_state=seed % 2**32)
            .fit_transform(points)
            .astype(np.float64)
        )
    if len(flat):
        flat = flat - (flat.max(axis=0) + flat.min(axis=0)) / 2.0
    return flat / max(float(np.abs(flat).max(initial=0.0)), 1e-12)
