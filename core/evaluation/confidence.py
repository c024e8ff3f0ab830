"""How sure an assignment to a cluster is: shares of the clusters at a temperature fitted on labelled images that were held out.

Source: temperature scaling by Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. A weak log-normal prior around the
default holds the temperature where labels say nothing: a handful of answers that are all right would make it 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize_scalar

from core.clustering.kmeans import confidences

DEFAULT_TEMPERATURE = 0.1  # of `confidences`: where nothing can be fitted
LEAST_HELD_OUT = 20
_LOWEST, _HIGHEST = 1e-4, 10.0
_PRIOR = np.log(4.0)  # standard deviation of the temperature's logarithm around the default's
_ROWS = 4096


def fit_temperature(features: np.ndarray, centres: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature at which the shares of held-out images say best which cluster is theirs.

    The negative log likelihood of the labels, with that of the prior, is smallest there. DEFAULT_TEMPERATURE where fewer than
    LEAST_HELD_OUT images are held out, or there is one cluster only.

    Args:
        features: (n, d) L2-normalised, of held-out images.
        centres: (K, d) cluster centres, fitted without these images.
        labels: (n,) index of the cluster of each image's class; negative = its class has none, and the image is left out.
    """
    labels = np.asarray(labels)
    kept = labels >= 0
    n, k = int(kept.sum()), len(centres)
    if n < LEAST_HELD_OUT or k < 2:
        return DEFAULT_TEMPERATURE
    points, centres = np.asarray(features[kept], np.float64), np.asarray(centres, np.float64)
    squares = (points**2).sum(axis=1)[:, None] - 2.0 * points @ centres.T + (centres**2).sum(axis=1)
    halves = -squares / 2.0
    halves -= halves.max(axis=1, keepdims=True)
    wanted = halves[np.arange(n), labels[kept]]

    def loss(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        misfit = (np.log(np.exp(halves / temperature).sum(axis=1)) - wanted / temperature).sum()
        return float(misfit + ((log_temperature - np.log(DEFAULT_TEMPERATURE)) / _PRIOR) ** 2 / 2)

    found = minimize_scalar(loss, bounds=(np.log(_LOWEST), np.log(_HIGHEST)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def standing(features: np.ndarray, centres: np.ndarray, clusters: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) the share of each image's own cluster, and (N,) how much more that is than the largest other one's, at least 0.

    An image that was given to another cluster than the nearest, as labelled ones are, has a margin of 0. With one cluster both are 1.
    Memory: _ROWS x K.
    """
    share, margin = np.ones(len(features)), np.ones(len(features))
    if len(centres) < 2:
        return share, margin
    for rows, shares in _blocks(features, centres, temperature):
        own = clusters[rows]
        at = np.arange(len(own))
        share[rows] = shares[at, own]
        shares[at, own] = -1.0
        margin[rows] = np.maximum(share[rows] - shares.max(axis=1), 0.0)
    return share, margin


def _blocks(features: np.ndarray, centres: np.ndarray, temperature: float) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(features), _ROWS):
        rows = slice(start, start + _ROWS)
        yield rows, confidences(features[rows], centres, temperature)
