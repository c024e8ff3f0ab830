"""Heat map of a clustering grid: k by density percentile, each cell coloured by a value and inscribed with its score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from core.errors import UserError, nearest
from core.plots.figure import MISSING_COLOUR, text_colour

BACKGROUNDS = {
    "all": "All accuracy (diagnostic)",
    "old": "Old accuracy (diagnostic)",
    "new": "New accuracy (diagnostic)",
    "n_clusters": "number of clusters",
    "score": "label-free score",
}

CHARACTERS_PER_INCH = 13  # of the title


def grid_heatmap(cells: Iterable[Mapping[str, Any]], value: str, best: tuple[int, float] | None = None) -> Figure:
    """Draw the grid of `cells`, the entries of results_grid.json, with `value` as background and the chosen `best` (k, dp) outlined.

    Rows are k, columns density percentiles, both ascending; a value that is absent, None or not finite is grey, an absent score is not
    written. `value` is one of BACKGROUNDS; the accuracies need the truth of unlabelled images, choose nothing, and the title says so.
    Raises UserError for another `value` or without cells.
    """
    if value not in BACKGROUNDS:
        raise UserError(f"unknown heat map background '{value}'{nearest(value, BACKGROUNDS)} (one of {', '.join(BACKGROUNDS)})")
    cells = list(cells)
    if not cells:
        raise UserError("the clustering grid has no cells to draw: check k_min, k_max, density_min and density_max")
    ks = sorted({cell["k"] for cell in cells})
    percentiles = sorted({cell["density_percentile"] for cell in cells})
    scores, background = (_grid(cells, ks, percentiles, name) for name in ("score", value))
    figure = Figure(figsize=(2.6 + 0.62 * len(percentiles), 1.9 + 0.33 * len(ks)), layout="constrained")
    axes = figure.add_subplot()
    colours = _paint(figure, axes, background, BACKGROUNDS[value], whole=value == "n_clusters")
    for row, column in zip(*np.nonzero(np.isfinite(scores)), strict=True):
        axes.text(
            column, row, f"{scores[row, column]:.2f}", ha="center", va="center", fontsize=7.5, color=text_colour(colours[row, column])
        )
    if best is not None and best[0] in ks and best[1] in percentiles:
        corner = (percentiles.index(best[1]) - 0.5, ks.index(best[0]) - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="white", linewidth=5, zorder=3))
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#dc2626", linewidth=2.5, zorder=4, label="chosen"))
    _label(axes, ks, percentiles)
    title = _title(value, best, np.isfinite(background).any()).splitlines()
    figure.suptitle("\n".join(fill(line, int(figure.get_figwidth() * CHARACTERS_PER_INCH)) for line in title), fontsize=9)
    return figure


def _grid(cells: list[Mapping[str, Any]], ks: list[int], percentiles: list[float], name: str) -> np.ndarray:
    """Return the (len(ks), len(percentiles)) values called `name`, NaN where there is none."""
    grid = np.full((len(ks), len(percentiles)), np.nan)
    for cell in cells:
        number = cell.get(name)
        if number is not None and math.isfinite(number):
            grid[ks.index(cell["k"]), percentiles.index(cell["density_percentile"])] = number
    return grid


def _paint(figure: Figure, axes: Axes, background: np.ndarray, label: str, whole: bool) -> np.ndarray:
    """Draw the background with its colour bar and return the (R, C, 4) colours of the cells."""
    present = background[np.isfinite(background)]
    # Stretched over the values that occur, since the differences within a grid are small beside the whole range.
    scale = Normalize(present.min(), present.max()) if present.size else Normalize(0.0, 1.0)
    mapping = ScalarMappable(scale, colormaps["viridis"].with_extremes(bad=MISSING_COLOUR))
    masked = np.ma.masked_invalid(background)
    axes.imshow(masked, norm=scale, cmap=mapping.cmap, aspect="auto", interpolation="nearest")
    if present.size:
        figure.colorbar(mapping, ax=axes, label=label, pad=0.02, ticks=MaxNLocator(6, integer=whole))
    return mapping.to_rgba(masked)


def _label(axes: Axes, ks: list[int], percentiles: list[float]) -> None:
    """Write ticks and axis names."""
    axes.set_xticks(range(len(percentiles)), [f"{percentile:g}" for percentile in percentiles])
    axes.set_yticks(range(len(ks)), [str(k) for k in ks])
    axes.set_xlabel("density percentile of core points")
    axes.set_ylabel("k nearest neighbours")


def _title(value: str, best: tuple[int, float] | None, any_value: bool) -> str:
    """Return what background, numbers and outline mean."""
    chosen = "" if best is None else f"; outlined: the chosen k={best[0]}, dp={best[1]:g}"
    absent = "" if any_value else ": not applicable in any cell"
    note = "\naccuracy needs the true classes: a diagnostic, it chooses nothing" if value in ("all", "old", "new") else ""
    return f"background: {BACKGROUNDS[value]}{absent}; number: label-free score{chosen}{note}"
