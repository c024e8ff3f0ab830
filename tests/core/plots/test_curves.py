"""Curves: each series once, in its panel, over the same epochs everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import UserError
from core.plots.curves import GROUPS, curves, panel_series

HISTORY = {
    "L_total": [(1, 2.0), (0, 3.0), (2, 1.0)],
    "L_pseudo": [(0, None), (1, None), (2, 0.5)],
    "gamma": [(0, 0.0), (2, 1.0)],
    "lr": [(0, 0.1)],
    "unlabelled/v2_all": [(0, 0.4), (10, 0.6)],
    "test/v2_all": [(0, 0.4)],
    "val/accuracy_old": [(0, 0.9)],
    "n_clusters": [(5, 7)],
    "core_ratio": [(5, 0.3)],
    "change_rate": [],
    "seconds": [(0, 3.0)],
}


def test_series_go_to_the_first_matching_panel_and_empty_panels_vanish():
    assert panel_series(HISTORY, GROUPS) == {
        "losses": ["L_total", "L_pseudo"],
        "gamma": ["gamma"],
        "learning rate": ["lr"],
        "accuracy on unlabelled training images": ["unlabelled/v2_all"],
        "accuracy on test images": ["test/v2_all"],
        "held-out labels and label-free scores": ["val/accuracy_old"],
        "number of clusters": ["n_clusters"],
        "core ratio": ["core_ratio"],
    }
    assert panel_series(HISTORY, {"one": ["lr"], "two": ["lr", "gamma"]}) == {"one": ["lr"], "two": ["gamma"]}


def test_lines_hold_the_data_sorted_with_gaps_and_refreshes_are_marked():
    figure = curves(HISTORY, refreshes=(5, 8))
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    lines = {line.get_label(): line for line in panels["losses"].lines if line.get_gid() != "refresh"}
    np.testing.assert_array_equal(lines["L_total"].get_xydata(), [[0, 3.0], [1, 2.0], [2, 1.0]])
    np.testing.assert_array_equal(lines["L_pseudo"].get_ydata(), [np.nan, np.nan, 0.5])
    for axes in panels.values():
        assert [line.get_xdata()[0] for line in axes.lines if line.get_gid() == "refresh"] == [5, 8]
        assert axes.get_xlim() == (-0.5, 10.5)
    assert figure.get_supxlabel() == "dashed lines: pseudo labels refreshed"
    assert len(panels) == len(panel_series(HISTORY, GROUPS))


def test_nothing_to_draw_is_a_users_mistake():
    with pytest.raises(UserError, match="no curve to draw"):
        curves({"seconds": [(0, 1.0)], "lr": []})
