"""Error rates of groups of posts as bars with their intervals, one panel a way of grouping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.errors import UserError
from core.evaluation.error_rates import ErrorRate
from core.plots.figure import KNOWN_COLOUR, MISSING_COLOUR, NOVEL_COLOUR

COLUMNS = 3


def error_rates(panels: Mapping[str, Sequence[ErrorRate]], overall: ErrorRate) -> Figure:
    """Draw one panel for each way of grouping: bars of error rates with intervals, counts below the names, the overall rate dashed.

    A group whose interval does not hold the overall rate is orange: there the errors differ by more than chance explains. Groups without
    items are hatched. Raises UserError without panels or items.
    """
    if not panels or overall.rate is None:
        raise UserError("there are no posts to analyse; give a CSV with labelled posts")
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.3 * columns, 3.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    top = max(rate.high for rates in (*panels.values(), [overall]) for rate in rates if rate.high is not None)
    for axes, (title, rates) in zip(grid, panels.items(), strict=False):
        _panel(axes, title, rates, overall.rate)
        axes.set_ylim(0.0, min(1.0, 1.12 * top))
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(
        f"error rate, overall {overall.rate:.3f} ({overall.errors} of {overall.n}, dashed); "
        "whiskers: 95 % Wilson interval; orange: the interval leaves out the overall rate",
        fontsize=9,
    )
    return figure


def _panel(axes: Axes, title: str, rates: Sequence[ErrorRate], overall: float) -> None:
    for place, rate in enumerate(rates):
        if rate.rate is None or rate.low is None or rate.high is None:
            axes.bar(place, overall, width=0.7, color="white", edgecolor=MISSING_COLOUR, hatch="////")
            continue
        differs = not rate.low <= overall <= rate.high
        axes.bar(place, rate.rate, width=0.7, color=NOVEL_COLOUR if differs else KNOWN_COLOUR)
        spread = [[rate.rate - rate.low], [rate.high - rate.rate]]
        axes.errorbar(place, rate.rate, yerr=spread, color="#262626", capsize=3, linewidth=1.1)
        axes.annotate(f"{rate.rate:.2f}", (place, rate.high), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=8)
    axes.axhline(overall, color="#262626", linestyle="--", linewidth=1)
    axes.set_xticks(range(len(rates)), [f"{rate.group}\nn={rate.n}" for rate in rates], fontsize=8, parse_math=False)
    axes.set_title(title, fontsize=10)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)
