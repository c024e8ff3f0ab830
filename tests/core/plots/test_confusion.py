"""The confusion figure puts what the v2 assignment counts as right on its diagonal."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import UserError
from core.evaluation.gcd import accuracy
from core.plots.confusion import confusion, ordered_counts
from core.plots.figure import KNOWN_COLOUR, NOVEL_COLOUR

TRUE = np.array([8, 8, 8, 2, 2, 5, 5, 5, 5, 5])
CLUSTERS = np.array([1, 1, 0, 3, 3, 0, 0, 7, 7, 9])
NAMES = {8: "oak", 2: "elm"}


def test_order_counts_names_and_title():
    figure = confusion(TRUE, CLUSTERS, NAMES, {8, 2})
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["elm", "oak", "5"]
    assert [label.get_color() for label in axes.get_xticklabels()] == [KNOWN_COLOUR, KNOWN_COLOUR, NOVEL_COLOUR]
    table = ordered_counts(TRUE, CLUSTERS, {8, 2}, accuracy(TRUE, CLUSTERS, {8, 2}).assignment)
    assert [label.get_text() for label in axes.get_yticklabels()] == [str(cluster) for cluster in table.rows]
    np.testing.assert_allclose(axes.images[0].get_array(), table.counts / [2, 3, 5])
    written = {(round(text.get_position()[1]), round(text.get_position()[0])): int(text.get_text()) for text in axes.texts}
    assert written == {(row, column): table.counts[row, column] for row, column in zip(*np.nonzero(table.counts), strict=True)}
    assert "All 0.600, Old 0.800, New 0.400" in axes.get_title()


def test_diagonal_then_spare_clusters_by_size():
    table = ordered_counts(TRUE, CLUSTERS, {8, 2}, {3: 2, 1: 8, 7: 5})
    assert table.columns.tolist() == [2, 8, 5]
    assert table.rows.tolist() == [3, 1, 7, 0, 9]
    assert np.diagonal(table.counts).tolist() == [2, 2, 2]
    assert table.counts.sum() == len(TRUE)


def test_fewer_clusters_than_classes_and_what_does_not_apply():
    figure = confusion(TRUE, np.zeros(10, dtype=int), NAMES, {8, 2, 5})
    assert figure.axes[0].images[0].get_array().shape == (1, 3)
    assert "New n/a" in figure.axes[0].get_title()


def test_large_tables_are_drawn_without_numbers():
    ids = np.arange(40)
    assert not confusion(ids, ids, {}, set()).axes[0].texts


def test_no_points_is_a_users_mistake():
    with pytest.raises(UserError, match="no points"):
        confusion([], [], {}, {1})
