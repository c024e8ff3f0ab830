"""How many classes there are: the score of every number that was tried, the chosen one, and how sure it is."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from core.clustering.n_classes import Count
from core.plots.figure import KNOWN_COLOUR, NOVEL_COLOUR

_MANY = 40  # numbers tried: beyond, markers run into each other


def class_count(count: Count, declared: int | None = None) -> Figure:
    """Draw the curve of `count`, its estimate and interval, and the `declared` number of classes where there is one."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    numbers, scores = [k for k, _ in count.curve], [score for _, score in count.curve]
    if count.low < count.high:
        axes.axvspan(count.low, count.high, color=KNOWN_COLOUR, alpha=0.13, linewidth=0, label=f"interval {count.low} to {count.high}")
    axes.plot(
        numbers, scores, color=KNOWN_COLOUR, marker="o" if len(numbers) <= _MANY else None, markersize=3.5, linewidth=1.4, label="score"
    )
    axes.axvline(count.n, color=KNOWN_COLOUR, linewidth=1.6, label=f"estimate {count.n}")
    if declared is not None:
        axes.axvline(declared, color=NOVEL_COLOUR, linewidth=1.6, linestyle="--", label=f"declared {declared}")
    axes.set_xlabel("number of classes")
    axes.set_ylabel("score (higher is better)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    interval = f", {count.low} to {count.high} are possible" if count.low < count.high else ""
    axes.set_title(f"{count.n} classes{interval}", fontsize=10)
    return figure
