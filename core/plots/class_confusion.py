"""True classes against predicted ones, each row as fractions of its class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from core.errors import UserError
from core.plots.class_bars import shorten
from core.plots.figure import MISSING_COLOUR, text_colour

_WRITTEN_UP_TO = 25
_COLOURS = colormaps["Blues"].with_extremes(bad=MISSING_COLOUR)
# Few mistakes in a cell must show beside a diagonal near 1.
_SCALE = PowerNorm(0.5, 0.0, 1.0)


def class_confusion(labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draw how often class `labels` (N,) (rows) was taken for `predicted` (N,) (columns), both indices into the C `class_names`.

    Colour is the fraction of the row, on a square-root scale; a class without images is a grey row. Up to 25 classes the counts are
    written. Raises UserError without images, ValueError for ids outside 0..C-1.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if not len(labels):
        raise UserError("no images to draw a confusion matrix of: the evaluated part is empty")
    n = len(class_names)
    if min(labels.min(), predicted.min()) < 0 or max(labels.max(), predicted.max()) >= n:
        raise ValueError(f"labels and predictions must be in 0..{n - 1}, the classes that have names")
    counts = confusion_matrix(labels, predicted, labels=np.arange(n))
    totals = counts.sum(axis=1, keepdims=True)
    fractions = np.ma.masked_invalid(np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0))
    written = n <= _WRITTEN_UP_TO
    side = (0.42 if written else 0.2) * n
    figure = Figure(figsize=(4.2 + side, 3.6 + side * (0.8 if written else 1.0)), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(fractions, norm=_SCALE, cmap=_COLOURS, aspect="auto", interpolation="nearest")
    figure.colorbar(
        picture, ax=axes, label="fraction of the true class", pad=0.01, aspect=40, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1]
    )
    if written:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = text_colour(_COLOURS(_SCALE(fractions[row, column])))
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=colour)
    names = [shorten(name) for name in class_names]
    size = 8 if written else 7
    axes.set_xticks(range(n), names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(n), names, fontsize=size, parse_math=False)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e5e5e5", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{len(labels):,} images, accuracy {np.trace(counts) / len(labels):.3f}{_absent(totals)}", fontsize=10)
    return figure


def _absent(totals: np.ndarray) -> str:
    """Return what the grey rows are, when there are any."""
    return "; grey: class without images" if (totals == 0).any() else ""
