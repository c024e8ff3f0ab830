"""Heat map of a classifier's scores under corruptions: corruption by severity, beside the score on clean posts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from core.errors import UserError
from core.plots.figure import MISSING_COLOUR, text_colour

TITLES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


def corruption_heatmap(cells: Sequence[Mapping[str, Any]], clean: Mapping[str, float], about: str = "") -> Figure:
    """Draw the cells of robustness.json, one panel a score: rows are corruptions, columns the clean posts and the severities.

    Args:
        cells: each with `kind` ('image' or 'text'), `corruption`, `severity`, `accuracy`, `macro_f1`; rows keep their order.
        clean: the two scores without corruption.
        about: title, e.g. which part of the posts.

    Raises UserError without cells. A cell that is not there is grey and empty.
    """
    if not cells:
        raise UserError("there are no corruptions to draw: name at least one")
    rows = list(dict.fromkeys((cell["kind"], cell["corruption"]) for cell in cells))
    severities = sorted({cell["severity"] for cell in cells})
    figure = Figure(figsize=(4.9 + 0.75 * len(severities) * len(TITLES), 1.5 + 0.36 * len(rows)), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(TITLES), sharey=True), TITLES, strict=True):
        grid = np.full((len(rows), 1 + len(severities)), np.nan)
        grid[:, 0] = clean[metric]
        for cell in cells:
            grid[rows.index((cell["kind"], cell["corruption"])), 1 + severities.index(cell["severity"])] = cell[metric]
        _panel(axes, grid, metric, severities)
    left = figure.axes[0]
    left.set_yticks(range(len(rows)), [f"{corruption.replace('_', ' ')} ({kind})" for kind, corruption in rows], fontsize=9)
    figure.suptitle(about or "scores under corruptions", fontsize=10)
    _separate(figure.axes, [kind for kind, _ in rows])
    return figure


def _panel(axes: Axes, grid: np.ndarray, metric: str, severities: Sequence[int]) -> None:
    """Paint one score (R, 1 + severities) and write its numbers."""
    # Stretched over the values that occur: the drops are small beside 0..1.
    scale = Normalize(np.nanmin(grid), max(np.nanmax(grid), np.nanmin(grid) + 0.01))
    colours = colormaps["viridis"].with_extremes(bad=MISSING_COLOUR)
    axes.imshow(np.ma.masked_invalid(grid), norm=scale, cmap=colours, aspect="auto", interpolation="nearest")
    for row, column in zip(*np.nonzero(np.isfinite(grid)), strict=True):
        value = grid[row, column]
        axes.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=8, color=text_colour(colours(scale(value))))
    axes.axvline(0.5, color="white", linewidth=4)
    axes.set_xticks(range(grid.shape[1]), ["clean", *map(str, severities)])
    axes.set_xlabel("severity")
    axes.set_title(TITLES[metric], fontsize=10)
    axes.tick_params(length=0)


def _separate(panels: Sequence[Axes], kinds: Sequence[str]) -> None:
    """Draw a gap between the corruptions of images and those of texts."""
    for place in range(1, len(kinds)):
        if kinds[place] != kinds[place - 1]:
            for axes in panels:
                axes.axhline(place - 0.5, color="white", linewidth=4)
