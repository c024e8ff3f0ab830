"""The grid heat map shows the right values in the right cells and says what they are."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from core.errors import UserError
from core.plots.figure import MISSING_COLOUR, save, text_colour
from core.plots.heatmap import BACKGROUNDS, grid_heatmap


def grid() -> list[dict]:
    """Return a 3 x 2 grid, out of order, with one value and one score missing."""
    cells = [
        {
            "k": k,
            "density_percentile": dp,
            "score": -k - dp / 100,
            "n_clusters": k,
            "n_core": 9,
            "all": k / 10 + dp / 1000,
            "old": 0.5,
            "new": None,
        }
        for k in (10, 9, 3)
        for dp in (90, 40)
    ]
    cells[0]["score"] = None
    cells[1]["all"] = float("nan")
    return cells


def title(figure) -> str:
    """Return the figure's title on one line."""
    return " ".join(figure.get_suptitle().split())


def test_the_title_of_a_tiny_grid_stays_within_the_figure(tmp_path):
    figure = grid_heatmap(grid()[:3], "all", (9, 90))
    save(figure, tmp_path / "map.png")
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 + 1


def test_background_text_outline_and_title():
    axes = grid_heatmap(grid(), "all", (9, 90)).axes[0]
    shown = axes.images[0].get_array()
    np.testing.assert_allclose(shown.filled(-1), [[0.34, 0.39], [0.94, 0.99], [-1, 1.09]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["3", "9", "10"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["40", "90"]
    texts = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "-3.40", (0, 1): "-3.90", (1, 0): "-9.40", (1, 1): "-9.90", (2, 0): "-10.40"}
    outlines = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert {patch.get_xy() for patch in outlines} == {(0.5, 0.5)}
    assert "All accuracy (diagnostic)" in title(axes.figure)
    assert "chooses nothing" in title(axes.figure) and "k=9, dp=90" in title(axes.figure)


@pytest.mark.parametrize("value", BACKGROUNDS)
def test_only_accuracies_are_called_diagnostics(value):
    figure = grid_heatmap(grid(), value)
    assert ("diagnostic" in title(figure)) == (value in ("all", "old", "new"))
    assert not figure.axes[0].patches


def test_missing_values_are_grey_with_a_readable_score():
    axes = grid_heatmap(grid(), "new").axes[0]
    assert axes.images[0].get_array().mask.all()
    assert to_hex(axes.images[0].cmap.get_bad()) == MISSING_COLOUR
    assert "not applicable in any cell" in title(axes.figure)
    assert {text.get_color() for text in axes.texts} == {"black"}


def test_text_contrasts_with_its_cell():
    assert text_colour("#440154") == "white" and text_colour("#fde725") == "black"
    axes = grid_heatmap(grid(), "n_clusters").axes[0]
    colours = {text.get_text(): text.get_color() for text in axes.texts}
    assert colours["-3.40"] == "white" and colours["-10.40"] == "black"


def test_mistakes_and_saving(tmp_path):
    with pytest.raises(UserError, match="'n_cluster'; did you mean 'n_clusters'"):
        grid_heatmap(grid(), "n_cluster")
    with pytest.raises(UserError, match="no cells"):
        grid_heatmap([], "all")
    path = save(grid_heatmap(grid(), "score", (3, 40)), tmp_path / "new" / "map.png")
    assert path.read_bytes().startswith(b"\x89PNG")
