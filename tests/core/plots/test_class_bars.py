"""The bars stand in the order of training images and say what was not evaluated."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_hex

from core.errors import UserError
from core.plots.class_bars import class_bars, shorten
from core.plots.figure import KNOWN_COLOUR, NOVEL_COLOUR, save


def row(name: str, train: int, evaluated: int, recall: float | None) -> dict:
    return {"name": name, "train_images": train, "evaluated_images": evaluated, "recall": recall}


ROWS = [row("rare", 11, 30, 0.1), row("common", 1694, 149, 0.9), row("absent", 400, 0, None), row("middle", 400, 4, 0.0)]


def test_order_lengths_colours_and_texts():
    axes = class_bars(ROWS).axes[0]
    ticks = axes.get_yticklabels()
    assert [tick.get_text() for tick in ticks] == ["common  1,694", "absent  400", "middle  400", "rare  11"]
    assert [tick.get_color() for tick in ticks] == ["black", "black", "black", NOVEL_COLOUR]
    bars = [container.patches[0] for container in axes.containers]
    assert [bar.get_width() for bar in bars] == [0.9, 1.0, 0.0, 0.1]
    assert [bool(bar.get_hatch()) for bar in bars] == [False, True, False, False]
    colours = [to_hex(bar.get_facecolor()) for bar in bars]
    assert colours == [KNOWN_COLOUR, "#ffffff", KNOWN_COLOUR, NOVEL_COLOUR]
    assert [text.get_text() for text in axes.texts] == ["0.90  149", "not evaluated", "0.00  4", "0.10  30"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_means_are_those_of_evaluated_classes():
    axes = class_bars(ROWS).axes[0]
    means = {line.get_gid(): line.get_xdata()[0] for line in axes.lines}
    assert means == pytest.approx({"all classes": (0.9 + 0.0 + 0.1) / 3, "rarest 25 %": 0.1})
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "mean of all classes: 0.333" in said and "no evaluated image" in said


def test_what_does_not_occur_is_not_in_the_legend():
    axes = class_bars([row("tail", 1, 0, None), row("head", 9, 3, 1.0)]).axes[0]
    assert [line.get_gid() for line in axes.lines] == ["all classes"]
    axes = class_bars([row("tail", 1, 2, 0.5), row("head", 9, 3, 1.0)]).axes[0]
    assert "no evaluated image" not in [text.get_text() for text in axes.get_legend().get_texts()]


def test_61_classes_have_a_row_each_that_does_not_touch_the_next(tmp_path):
    counts = np.arange(61) * 40 + 3
    figure = class_bars([row(f"crop_{c}_a disease with a long name_$serious$", int(counts[c]), 5, c / 61) for c in range(61)])
    save(figure, tmp_path / "bars.png")
    ticks = figure.axes[0].get_yticklabels()
    boxes = [tick.get_window_extent() for tick in ticks]
    assert len(boxes) == 61 and sum(tick.get_color() == NOVEL_COLOUR for tick in ticks) == 15
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))
    assert "$serious$" in ticks[0].get_text() and not ticks[0].get_parse_math()


def test_long_names_keep_beginning_and_end():
    assert shorten("tomato_leaf_mold") == "tomato_leaf_mold"
    assert shorten("abcdefghij", 7) == "abc…hij"
    assert [len(shorten("x" * 50, length)) for length in (8, 9, 49)] == [8, 9, 49]


def test_no_classes_is_a_users_mistake():
    with pytest.raises(UserError, match="no classes"):
        class_bars([])
