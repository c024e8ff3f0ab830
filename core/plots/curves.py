"""Training curves as small multiples: a panel for each group of series over the global epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from core.errors import UserError

History = Mapping[str, Sequence[tuple[float, float | None]]]

# Panel title -> patterns of series names. What differs in scale has a panel of its own.
GROUPS: dict[str, tuple[str, ...]] = {
    "losses": ("L_*", "*/L_*"),
    "validation loss (negative log-likelihood)": ("val/nll", "*/val/nll"),
    "gamma": ("gamma", "*/gamma"),
    "learning rate": ("lr", "*/lr", "head_lr", "*/head_lr"),
    "accuracy on unlabelled training images": ("unlabelled/*",),
    "accuracy on test images": ("test/*",),
    "held-out labels and label-free scores": ("val/*", "selection/*"),
    "number of clusters": ("clusters", "n_clusters", "*/clusters", "*/n_clusters"),
    "core ratio": ("*core_ratio",),
    "label change rate": ("*change_rate",),
}
_WHOLE = "number of clusters"
_COLOURS = ("#1f5fa8", "#c2410c", "#15803d", "#7e22ce", "#b45309", "#0e7490", "#be185d", "#525252")
_STYLES = ("-", "--", "-.", ":")
_COLUMNS = 3


def curves(history: History, groups: Mapping[str, Sequence[str]] = GROUPS, refreshes: Sequence[float] = ()) -> Figure:
    """Draw `history`, series name -> [(epoch, value)], in a panel for each of `groups`, title -> names or patterns (``L_*``).

    A series goes into the first group that matches and into no other, those that match none are left out, and so are panels without
    series. Vertical lines mark the epochs of `refreshes`, where new pseudo labels came in. Values of None leave a gap. Raises UserError
    when nothing matches.
    """
    panels = panel_series(history, groups)
    if not panels:
        raise UserError("no curve to draw: none of the logged series belongs to a panel")
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 2.7 * rows + 0.2), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    span = _span([history[name] for names in panels.values() for name in names], refreshes)
    for axes, (title, names) in zip(places, panels.items(), strict=False):
        for epoch in refreshes:
            axes.axvline(epoch, color="#a3a3a3", linewidth=0.8, linestyle=(0, (3, 2)), zorder=0, gid="refresh")
        for place, name in enumerate(names):
            _draw(axes, name, history[name], place)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_xlim(*span)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=title == _WHOLE))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
    if len(refreshes):
        figure.supxlabel("dashed lines: pseudo labels refreshed", fontsize=8, color="#737373")
    return figure


def panel_series(history: History, groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return panel title -> names of its non-empty series, in the order of `groups` and of `history`."""
    panels: dict[str, list[str]] = {}
    taken: set[str] = set()
    for title, patterns in groups.items():
        names = [name for name in history if name not in taken and any(fnmatchcase(name, pattern) for pattern in patterns)]
        names = [name for name in names if len(history[name])]
        if names:
            panels[title] = names
            taken.update(names)
    return panels


def _span(series: Sequence[Sequence[tuple[float, float | None]]], refreshes: Sequence[float]) -> tuple[float, float]:
    """Return the range of epochs that all panels show, so that they can be read against each other."""
    epochs = [epoch for points in series for epoch, _ in points] + list(refreshes)
    margin = max(0.03 * (max(epochs) - min(epochs)), 0.5)
    return min(epochs) - margin, max(epochs) + margin


def _draw(axes: Axes, name: str, series: Sequence[tuple[float, float | None]], place: int) -> None:
    """Draw one series by ascending epoch; short ones get markers, since a line of one point cannot be seen."""
    points = sorted(series, key=lambda point: point[0])
    epochs = [epoch for epoch, _ in points]
    values = [float("nan") if value is None else value for _, value in points]
    style = _STYLES[place // len(_COLOURS) % len(_STYLES)]
    marker = "o" if len(points) <= 30 else None
    axes.plot(epochs, values, style, color=_COLOURS[place % len(_COLOURS)], linewidth=1.4, marker=marker, markersize=2.8, label=name)
