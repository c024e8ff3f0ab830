"""Ways to train, side by side: New accuracy by superclass with the ceiling, and paired differences with their intervals."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.errors import UserError
from core.evaluation.paired import Difference
from core.plots.figure import KNOWN_COLOUR, NOVEL_COLOUR

COLOURS = (
    "#9ca3af",
    "#1f5fa8",
    "#0ea5e9",
    "#c2410c",
    "#f59e0b",
    "#4d7c0f",
    "#84cc16",
    "#6b21a8",
    "#db2777",
    "#0f766e",
    "#262626",
    "#78350f",
)
CEILING = "ceiling"


def arm_figures(
    new: Mapping[str, Mapping[str, float | None]],
    chosen: Collection[str],
    gaps: Mapping[str, Mapping[str, Difference]],
    against: str,
    images: str,
) -> Figure:
    """Draw New accuracy on test images by superclass, a dot an arm, and the differences to `against` on `images`.

    Args:
        new: by arm, by superclass; None = not applicable. The arm `ceiling` is drawn as a bar behind the dots.
        chosen: superclasses that served for choosing, drawn below a line.
        gaps: for 'all' and 'new', by arm.
        against, images: what the differences are to and on.

    Raises:
        UserError: no arm has a figure.
    """
    superclasses = list(dict.fromkeys(name for found in new.values() for name in found))
    arms = [arm for arm in new if any(value is not None for value in new[arm].values())]
    if not arms:
        raise UserError("no arm has New figures to draw: the table needs novel classes whose truth is known")
    rows = max(len(superclasses), len(gaps["new"]) + 1)
    figure = Figure(figsize=(13.0, 2.4 + 0.5 * rows), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1.0))
    _dots(left, new, arms, superclasses, chosen)
    _forest(right, gaps, against, images)
    return figure


def _dots(
    axes: Axes, new: Mapping[str, Mapping[str, float | None]], arms: list[str], superclasses: list[str], chosen: Collection[str]
) -> None:
    for row, superclass in enumerate(superclasses):
        ceiling = new.get(CEILING, {}).get(superclass)
        if ceiling is not None:
            axes.barh(row, ceiling, height=0.7, color="#e5e7eb", zorder=0)
    for place, arm in enumerate(arms):
        if arm == CEILING:
            continue
        points = [(value, row) for row, superclass in enumerate(superclasses) if (value := new[arm].get(superclass)) is not None]
        offset = (place - (len(arms) - 1) / 2) * 0.6 / max(len(arms), 1)
        x, y = np.array(points).T
        axes.scatter(x, y + offset, s=26, color=COLOURS[place % len(COLOURS)], label=arm, zorder=2)
    apart = sum(superclass not in chosen for superclass in superclasses)
    if 0 < apart < len(superclasses):
        axes.axhline(apart - 0.5, color="#525252", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(superclasses)), [f"{name} (chosen on)" if name in chosen else name for name in superclasses], fontsize=9)
    axes.set_ylim(len(superclasses) - 0.4, -0.6)
    lowest = min(value for found in new.values() for value in found.values() if value is not None)
    axes.set_xlim(max(0.0, np.floor(10 * lowest - 1) / 10), 1.0)
    axes.set_title("New on test images; grey: ceiling", fontsize=10)
    axes.set_xlabel("v2 accuracy on novel classes, mean of seeds", fontsize=9)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0.0, -0.09), ncols=4, frameon=False)
    _plain(axes)


def _forest(axes: Axes, gaps: Mapping[str, Mapping[str, Difference]], against: str, images: str) -> None:
    arms = list(gaps["new"] or gaps["all"])
    for part, colour, offset in (("all", KNOWN_COLOUR, -0.14), ("new", NOVEL_COLOUR, 0.14)):
        for row, arm in enumerate(arms):
            if arm not in gaps[part]:
                continue
            gap = gaps[part][arm]
            label = part.capitalize() if row == 0 else None
            if not np.isnan(gap.low):
                axes.plot([gap.low, gap.high], [row + offset] * 2, color=colour, linewidth=1.4)
            axes.scatter([gap.mean], [row + offset], s=28, color=colour, label=label, zorder=2)
            axes.scatter(list(gap.by_problem.values()), [row + offset] * gap.n_problems, s=7, color=colour, alpha=0.35)
    axes.axvline(0.0, color="#262626", linewidth=0.8)
    axes.set_yticks(range(len(arms)), arms, fontsize=9)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.set_title(f"difference to {against} on {images}", fontsize=10)
    axes.set_xlabel("mean over superclasses with its 95 % interval; small: each superclass", fontsize=9)
    if arms:
        axes.legend(fontsize=8)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
