"""Several models by one or two scores, each bar with its interval: differences smaller than the intervals are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from core.errors import UserError
from core.plots.figure import KNOWN_COLOUR, NOVEL_COLOUR

COLOURS = (KNOWN_COLOUR, NOVEL_COLOUR, "#4d7c0f", "#6b21a8")
_HEIGHT = 0.8


def comparison_bars(rows: Sequence[Mapping[str, object]], metrics: Sequence[str], title: str = "") -> Figure:
    """Draw a group of horizontal bars a row, in the order given, the first on top.

    Args:
        rows: `name`, and for every metric (value, low, high) in 0..1.
        metrics: keys of the rows, one colour each.
        title: what the scores are of.

    Raises:
        UserError: nothing to compare.
    """
    if not rows or not metrics:
        raise UserError("no models to compare: give at least one variant")
    figure = Figure(figsize=(8.0, 1.4 + 0.55 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    height = _HEIGHT / len(metrics)
    for place, metric in enumerate(metrics):
        values, lows, highs = np.array([row[metric] for row in rows], float).T
        at = np.arange(len(rows)) + (place - (len(metrics) - 1) / 2) * height
        axes.barh(at, values, height=0.92 * height, color=COLOURS[place % len(COLOURS)], label=metric.replace("_", " "))
        axes.errorbar(values, at, xerr=[values - lows, highs - values], fmt="none", ecolor="#262626", elinewidth=1.1, capsize=3)
        for y, value, high in zip(at, values, highs, strict=True):
            axes.annotate(f"{value:.3f}", (high, y), xytext=(5, 0), textcoords="offset points", fontsize=8, va="center")
    axes.set_yticks(range(len(rows)), [str(row["name"]) for row in rows], fontsize=9, parse_math=False)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0.0, 1.0)
    axes.set_xlabel("score and its 95 % interval", fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(metrics), fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=10, parse_math=False)
    return figure
