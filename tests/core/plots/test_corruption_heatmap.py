"""The heat map of corruptions shows each cell's number."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import UserError
from core.plots.corruption_heatmap import corruption_heatmap
from core.plots.figure import save


def cells():
    return [
        {"kind": kind, "corruption": name, "severity": s, "accuracy": 0.7 - 0.05 * s, "macro_f1": 0.6 - 0.06 * s}
        for kind, name in (("image", "jpeg"), ("image", "motion_blur"), ("text", "typos"))
        for s in (1, 2, 3)
    ]


def test_rows_are_corruptions_and_columns_severities_after_the_clean_score(tmp_path):
    figure = corruption_heatmap(cells(), {"accuracy": 0.71, "macro_f1": 0.61}, "360 posts")
    save(figure, tmp_path / "map.png")
    left, right = figure.axes
    expected = [[0.71, 0.65, 0.6, 0.55]] * 3
    np.testing.assert_allclose(left.images[0].get_array(), expected)
    assert [text.get_text() for text in right.texts][:4] == ["0.610", "0.540", "0.480", "0.420"]
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["jpeg (image)", "motion blur (image)", "typos (text)"]
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["clean", "1", "2", "3"]
    assert figure.get_suptitle() == "360 posts"


def test_a_missing_cell_is_empty_and_equal_scores_do_not_break_the_colours(tmp_path):
    figure = corruption_heatmap(cells()[:-1], {"accuracy": 0.7, "macro_f1": 0.6})
    save(figure, tmp_path / "map.png")
    assert figure.axes[0].images[0].get_array().mask.sum() == 1 and len(figure.axes[0].texts) == 11
    same = [{"kind": "image", "corruption": "jpeg", "severity": 1, "accuracy": 0.5, "macro_f1": 0.5}]
    save(corruption_heatmap(same, {"accuracy": 0.5, "macro_f1": 0.5}), tmp_path / "same.png")


def test_nothing_to_draw_is_a_users_mistake():
    with pytest.raises(UserError, match="no corruptions to draw"):
        corruption_heatmap([], {"accuracy": 1.0, "macro_f1": 1.0})
