"""Bars of error rates show rates, counts and whether a group differs."""

from __future__ import annotations

import pytest
from matplotlib.colors import to_hex

from core.errors import UserError
from core.evaluation.error_rates import error_rate
from core.plots.error_rates import error_rates
from core.plots.figure import KNOWN_COLOUR, NOVEL_COLOUR, save


def test_bars_are_rates_and_the_surprising_ones_orange(tmp_path):
    panels = {"emoji": [error_rate("with", 60, 90), error_rate("without", 82, 270)], "area": [error_rate("small", 0, 0)]}
    figure = error_rates(panels, error_rate("all", 142, 360))
    save(figure, tmp_path / "rates.png")
    first, second = figure.axes[:2]
    bars = first.patches
    assert [bar.get_height() for bar in bars] == pytest.approx([60 / 90, 82 / 270])
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [NOVEL_COLOUR, NOVEL_COLOUR]
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["with\nn=90", "without\nn=270"]
    assert second.patches[0].get_hatch() == "////" and first.get_title() == "emoji"
    assert "0.394 (142 of 360, dashed)" in figure.get_suptitle()


def test_a_group_like_all_is_blue_and_nine_panels_fit(tmp_path):
    panels = {f"grouping {i}": [error_rate("a", 2, 5), error_rate("b", 3, 7)] for i in range(4)}
    figure = error_rates(panels, error_rate("all", 5, 12))
    save(figure, tmp_path / "rates.png")
    assert to_hex(figure.axes[0].patches[0].get_facecolor()) == KNOWN_COLOUR
    assert [axes.axison for axes in figure.axes] == [True] * 4 + [False] * 2


def test_nothing_to_draw_is_a_users_mistake():
    with pytest.raises(UserError, match="no posts to analyse"):
        error_rates({}, error_rate("all", 0, 0))
