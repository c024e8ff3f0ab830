"""The figure of arms shows the numbers it is given: dots at New, the ceiling as a bar, differences with their intervals."""

from __future__ import annotations

import pytest

from core.errors import UserError
from core.evaluation.paired import difference
from core.plots.arm_figures import arm_figures

NEW = {
    "contrast": {"trees": 0.5, "digits": 0.25, "containers": None},
    "both": {"trees": 0.75, "digits": 0.5, "containers": None},
    "ceiling": {"trees": 0.9, "digits": None, "containers": None},
}


def drawn(chosen=("digits",)):
    one = {("trees", 1): 0.75, ("trees", 2): 0.85}
    gap = difference(one, {("trees", 1): 0.5, ("trees", 2): 0.5})
    return arm_figures(NEW, chosen, {"all": {"both": gap}, "new": {"both": gap}}, "contrast", "test images")


def test_dots_bars_and_names():
    axes, _forest = drawn().axes
    dots = {part.get_label(): sorted(part.get_offsets()[:, 0].tolist()) for part in axes.collections if part.get_label() in NEW}
    assert dots == {"contrast": [0.25, 0.5], "both": [0.5, 0.75]}
    (bar,) = axes.patches
    assert (bar.get_width(), round(bar.get_y() + bar.get_height() / 2)) == (0.9, 0)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["trees", "digits (chosen on)", "containers"]


def test_differences_and_their_intervals():
    _dots, axes = drawn().axes
    gap = difference({("trees", 1): 0.75, ("trees", 2): 0.85}, {("trees", 1): 0.5, ("trees", 2): 0.5})
    means = [float(part.get_offsets()[0, 0]) for part in axes.collections if len(part.get_sizes()) and part.get_sizes()[0] == 28]
    assert means == pytest.approx([0.3, 0.3])
    lines = [line.get_xdata() for line in axes.lines if len(set(line.get_xdata())) == 2]
    assert [list(line) for line in lines] == [pytest.approx([gap.low, gap.high])] * 2
    assert "difference to contrast on test images" in axes.get_title()


def test_nothing_to_draw_is_said():
    with pytest.raises(UserError, match="no arm has New figures"):
        arm_figures({}, (), {"all": {}, "new": {}}, "contrast", "test images")
