"""The picture of the number of classes shows the curve, the choice, the interval and what was declared."""

from __future__ import annotations

import numpy as np

from core.clustering.n_classes import Count
from core.plots.class_count import class_count
from core.plots.figure import save

COUNT = Count(5, 4, 7, tuple((k, -abs(k - 5) / 10) for k in range(3, 13)))


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_curve_choice_interval_and_declared(tmp_path):
    figure = class_count(COUNT, 6)
    curve, estimate, declared = figure.axes[0].lines
    np.testing.assert_array_equal(curve.get_xydata(), COUNT.curve)
    assert estimate.get_xdata()[0] == 5 and declared.get_xdata()[0] == 6
    (span,) = figure.axes[0].patches
    assert (span.get_x(), span.get_x() + span.get_width()) == (4, 7)
    assert legend(figure) == ["interval 4 to 7", "score", "estimate 5", "declared 6"]
    assert figure.axes[0].get_title() == "5 classes, 4 to 7 are possible"
    assert save(figure, tmp_path / "count.png").stat().st_size > 5000


def test_what_is_sure_has_no_interval_and_what_nobody_declared_no_line():
    figure = class_count(Count(2, 2, 2, ((1, 0.1), (2, 0.5))), None)
    assert legend(figure) == ["score", "estimate 2"] and not figure.axes[0].patches and len(figure.axes[0].lines) == 2
    assert figure.axes[0].get_title() == "2 classes"


def test_a_count_without_a_curve_is_drawn_too(tmp_path):
    assert save(class_count(Count(1, 1, 1), None), tmp_path / "count.png").stat().st_size > 2000
