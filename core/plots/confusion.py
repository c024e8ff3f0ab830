"""Clusters against true classes, ordered by the v2 assignment so that what is right runs down the diagonal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from core.clustering.matching import Contingency, contingency
from core.errors import UserError
from core.evaluation.gcd import Accuracy, accuracy
from core.plots.figure import KNOWN_COLOUR, NOVEL_COLOUR, text_colour

_WRITTEN_UP_TO = 30
_COLOURS = colormaps["Blues"]


def confusion(true: np.ndarray, clusters: np.ndarray, class_names: Mapping[int, str], known: Collection[int]) -> Figure:
    """Draw the counts of clusters (rows) by true classes (columns) of the points, both (N,) ids.

    Colour is the fraction of the class's points. `class_names` maps class ids to names, a missing name is the id; `known` are the known
    classes, whose names are blue while those of novel ones are orange. Order: see `ordered_counts`. Raises UserError without points.
    """
    if not len(true):
        raise UserError("no points to compare clusters and classes on: the evaluated set is empty")
    score = accuracy(true, clusters, known)
    table = ordered_counts(true, clusters, known, score.assignment)
    fractions = table.counts / table.counts.sum(axis=0)
    n_rows, n_columns = table.counts.shape
    figure = Figure(figsize=(3.6 + 0.46 * n_columns, 2.4 + 0.3 * n_rows), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(fractions, vmin=0.0, vmax=1.0, cmap=_COLOURS, aspect="auto", interpolation="nearest")
    figure.colorbar(picture, ax=axes, label="fraction of the class", pad=0.02)
    if max(n_rows, n_columns) <= _WRITTEN_UP_TO:
        for row, column in zip(*np.nonzero(table.counts), strict=True):
            colour = text_colour(_COLOURS(fractions[row, column]))
            axes.text(column, row, str(table.counts[row, column]), ha="center", va="center", fontsize=7, color=colour)
    _label(axes, table, class_names, known)
    axes.set_title(_title(score), fontsize=9)
    return figure


def ordered_counts(true: np.ndarray, clusters: np.ndarray, known: Collection[int], assignment: Mapping[int, int]) -> Contingency:
    """Return the contingency table, rows and columns reordered for reading.

    Columns: known classes, then novel ones, each ascending. Rows: the clusters in the order of the classes that the `assignment`
    (cluster -> class) gives them, then those without a class, largest first, ties to the smaller id.
    """
    table = contingency(clusters, true)
    columns = np.lexsort((table.columns, ~np.isin(table.columns, list(known))))
    place = {int(table.columns[column]): at for at, column in enumerate(columns)}
    sizes = table.counts.sum(axis=1)

    def key(row: int) -> tuple[int, int, int]:
        cluster = int(table.rows[row])
        return (place[assignment[cluster]], 0, 0) if cluster in assignment else (len(columns), -int(sizes[row]), cluster)

    rows = np.array(sorted(range(len(table.rows)), key=key))
    return Contingency(table.rows[rows], table.columns[columns], table.counts[np.ix_(rows, columns)])


def _label(axes: Any, table: Contingency, class_names: Mapping[int, str], known: Collection[int]) -> None:
    """Write the names of classes and clusters."""
    axes.set_xticks(
        range(len(table.columns)), [class_names.get(int(label), str(label)) for label in table.columns], rotation=45, ha="right", fontsize=8
    )
    for tick, label in zip(axes.get_xticklabels(), table.columns, strict=True):
        tick.set_color(KNOWN_COLOUR if int(label) in known else NOVEL_COLOUR)
    axes.set_yticks(range(len(table.rows)), [str(cluster) for cluster in table.rows], fontsize=8)
    axes.set_xlabel("true class (blue: known, orange: novel)")
    axes.set_ylabel("cluster")


def _title(score: Accuracy) -> str:
    """Return the headline with the three accuracies; what does not apply is 'n/a'."""
    values = {"All": score.all, "Old": score.old, "New": score.new}
    parts = [f"{name} {'n/a' if value is None else f'{value:.3f}'}" for name, value in values.items()]
    return f"points per cluster and class, ordered by the v2 assignment\n{', '.join(parts)}"
