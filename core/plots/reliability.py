"""Reliability diagram: how often a classifier is right at each confidence, and how often it is that confident."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.evaluation.classification import N_BINS, Calibration, calibration
from core.plots.figure import KNOWN_COLOUR, NOVEL_COLOUR

# The gap is hatched over it where accuracy exceeds confidence.
_PALE = "#9dbbdc"


def reliability(labels: np.ndarray, probabilities: np.ndarray, n_bins: int = N_BINS) -> Figure:
    """Draw accuracy over confidence in `n_bins` equal bins, above a histogram of the confidences, with the expected calibration error.

    labels (N,), probabilities (N, C). The hatched part of a bar is the gap between its mean confidence and its accuracy. Raises as
    `core.evaluation.classification.calibration` does.
    """
    bins = calibration(labels, probabilities, n_bins)
    figure = Figure(figsize=(5.4, 6.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _accuracies(upper, bins)
    edges = np.arange(n_bins) / n_bins
    share = bins.counts / bins.counts.sum()
    lower.bar(edges, share, width=1 / n_bins, align="edge", color=KNOWN_COLOUR, edgecolor="white", linewidth=0.6)
    means = [float(np.nansum(values * share)) for values in (bins.confidence, bins.accuracy)]
    for name, mean, colour in zip(("confidence", "accuracy"), means, ("#262626", NOVEL_COLOUR), strict=True):
        lower.axvline(mean, color=colour, linestyle="--", linewidth=1.2, label=f"mean {name} {mean:.3f}")
    lower.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    lower.set_xlabel("confidence: the highest class probability")
    lower.set_ylabel("fraction of images")
    lower.set_xlim(0.0, 1.0)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    upper.set_title(f"expected calibration error {bins.ece:.3f} ({n_bins} bins, {bins.counts.sum():,} images)", fontsize=10)
    return figure


def _accuracies(axes: Axes, bins: Calibration) -> None:
    """Draw the accuracy of each bin that has images, and its gap to the mean confidence."""
    full = np.flatnonzero(bins.counts)
    n_bins = len(bins.counts)
    left, accuracy, confidence = full / n_bins, bins.accuracy[full], bins.confidence[full]
    axes.bar(left, accuracy, width=1 / n_bins, align="edge", color=_PALE, edgecolor="white", linewidth=0.6, label="accuracy")
    axes.bar(
        left,
        confidence - accuracy,
        bottom=accuracy,
        width=1 / n_bins,
        align="edge",
        facecolor="none",
        edgecolor=NOVEL_COLOUR,
        hatch="////",
        linewidth=0.9,
        label="gap to the mean confidence",
    )
    axes.plot([0, 1], [0, 1], color="#737373", linestyle="--", linewidth=1, label="perfectly calibrated")
    axes.set_ylim(0.0, 1.0)
    axes.set_ylabel("accuracy in the bin")
    axes.legend(fontsize=8, frameon=False, loc="upper left")
