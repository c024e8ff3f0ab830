"""Recall of each class as bars, from the class with the most training images to the rarest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from core.data.classification import tail_classes
from core.errors import UserError
from core.plots.figure import KNOWN_COLOUR, MISSING_COLOUR, NOVEL_COLOUR

_NAME_LENGTH = 40
_ROW_INCHES = 0.205
# Keeps a line visible on a bar of its own colour.
_OUTLINE = withStroke(linewidth=2.6, foreground="white")


def class_bars(per_class: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw `per_class`, the rows of `core.evaluation.classification.Report`: one bar a class, the most frequent in training on top.

    The rarest 25 % are orange, classes without evaluated images a hatched band; each name is followed by its training images, each bar by
    recall and evaluated images. Ties keep the order of `per_class`. Raises UserError without classes.
    """
    if not per_class:
        raise UserError("there are no classes to draw: the label map is empty")
    counts = np.array([row["train_images"] for row in per_class])
    tail = set(tail_classes(counts).tolist())
    order = np.argsort(-counts, kind="stable").tolist()
    figure = Figure(figsize=(9.0, 1.5 + _ROW_INCHES * len(order)), layout="constrained")
    axes = figure.add_subplot()
    for place, c in enumerate(order):
        _bar(axes, place, per_class[c], NOVEL_COLOUR if c in tail else KNOWN_COLOUR)
    names = [f"{shorten(row['name'])}  {row['train_images']:,}" for row in (per_class[c] for c in order)]
    axes.set_yticks(range(len(order)), names, fontsize=8, parse_math=False)
    for tick, c in zip(axes.get_yticklabels(), order, strict=True):
        tick.set_color(NOVEL_COLOUR if c in tail else "black")  # a bar of length 0 shows no colour
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0.0, 1.0)
    axes.set_xlabel("recall (number on the right: recall, evaluated images)", fontsize=9)
    axes.set_ylabel("class and its training images", fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    _means(axes, per_class, tail)
    return figure


def shorten(name: str, length: int = _NAME_LENGTH) -> str:
    """Return `name` in at most `length` characters, its middle replaced by an ellipsis: beginnings and ends tell classes apart."""
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[len(name) - (length - 1 - head) :]}"


def _bar(axes: Axes, place: int, row: Mapping[str, Any], colour: str) -> None:
    """Draw one class."""
    if row["recall"] is None:
        axes.barh(place, 1.0, height=0.72, color="white", edgecolor=MISSING_COLOUR, hatch="////", linewidth=0.8)
        said = "not evaluated"
    else:
        axes.barh(place, row["recall"], height=0.72, color=colour)
        said = f"{row['recall']:.2f}  {row['evaluated_images']:,}"
    axes.annotate(said, (1.0, place), xytext=(4, 0), textcoords="offset points", fontsize=8, va="center", annotation_clip=False)


def _means(axes: Axes, per_class: Sequence[Mapping[str, Any]], tail: set[int]) -> None:
    """Draw the mean recall of all classes and of the tail as lines, and the legend above."""
    recalls = {c: row["recall"] for c, row in enumerate(per_class) if row["recall"] is not None}
    handles: list[Any] = []
    groups = (
        ("all classes", "#262626", list(recalls.values())),
        ("rarest 25 %", NOVEL_COLOUR, [r for c, r in recalls.items() if c in tail]),
    )
    for name, colour, values in groups:
        if values:
            mean = float(np.mean(values))
            axes.axvline(mean, color=colour, linestyle="--", linewidth=1.1, gid=name, path_effects=[_OUTLINE])
            handles.append(Line2D([], [], color=colour, linestyle="--", linewidth=1.1, label=f"mean of {name}: {mean:.3f}"))
    handles += [Patch(color=KNOWN_COLOUR, label="other class"), Patch(color=NOVEL_COLOUR, label="rarest 25 %")]
    if len(recalls) < len(per_class):
        handles.append(Patch(facecolor="white", edgecolor=MISSING_COLOUR, hatch="////", label="no evaluated image"))
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8, frameon=False)
