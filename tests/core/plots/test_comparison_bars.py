"""Bars stand in the order given, with their values and intervals."""

from __future__ import annotations

import pytest

from core.errors import UserError
from core.plots.comparison_bars import comparison_bars
from core.plots.figure import save

ROWS = [
    {"name": "ln", "accuracy": (0.7, 0.65, 0.74), "macro_f1": (0.6, 0.5, 0.66)},
    {"name": "text $only$", "accuracy": (0.5, 0.45, 0.55), "macro_f1": (0.4, 0.4, 0.4)},
]


def test_bars_intervals_and_names(tmp_path):
    figure = comparison_bars(ROWS, ("accuracy", "macro_f1"), "heads")
    axes = figure.axes[0]
    bars = [container for container in axes.containers if hasattr(container, "patches") and len(container.patches) == 2]
    assert [[patch.get_width() for patch in bar.patches] for bar in bars] == [[0.7, 0.5], [0.6, 0.4]]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["ln", "text $only$"] and axes.get_ylim()[0] > axes.get_ylim()[1]
    segments = [segment for lines in axes.collections for segment in lines.get_segments()]
    ends = [float(x) for segment in segments for x in segment[:, 0]]
    assert ends == pytest.approx([0.65, 0.74, 0.45, 0.55, 0.5, 0.66, 0.4, 0.4])
    assert [text.get_text() for text in axes.texts] == ["0.700", "0.500", "0.600", "0.400"]
    assert figure.get_suptitle() == "heads"
    save(figure, tmp_path / "bars.png")


def test_nothing_to_compare_is_a_users_mistake():
    with pytest.raises(UserError, match="no models to compare"):
        comparison_bars([], ("accuracy",))
