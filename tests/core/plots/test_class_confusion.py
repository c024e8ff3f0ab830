"""The class confusion matrix has true rows, predicted columns and fractions of the row."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_hex

from core.errors import UserError
from core.plots.class_confusion import class_confusion
from core.plots.figure import MISSING_COLOUR, save

LABELS = np.array([0, 0, 0, 0, 2, 2])
PREDICTED = np.array([0, 0, 0, 1, 0, 2])


def test_fractions_counts_names_and_title():
    axes = class_confusion(LABELS, PREDICTED, ["oak", "elm", "a $b$ ash"]).axes[0]
    shown = axes.images[0].get_array()
    np.testing.assert_allclose(shown[[0, 2]], [[0.75, 0.25, 0.0], [0.5, 0.0, 0.5]])
    written = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "3", (0, 1): "1", (2, 0): "1", (2, 2): "1"}
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["oak", "elm", "a $b$ ash"]
        assert not any(label.get_parse_math() for label in labels)
    assert axes.get_ylabel() == "true class" and axes.get_xlabel() == "predicted class"
    assert axes.get_title() == "6 images, accuracy 0.667; grey: class without images"


def test_a_class_without_images_is_grey_and_said_to_be():
    axes = class_confusion(LABELS, PREDICTED, ["a", "b", "c"]).axes[0]
    assert axes.images[0].get_array().mask.tolist() == [[False] * 3, [True] * 3, [False] * 3]
    assert to_hex(axes.images[0].cmap.get_bad()) == MISSING_COLOUR
    assert "grey" not in class_confusion(np.arange(3), np.arange(3), ["a", "b", "c"]).axes[0].get_title()


def test_61_classes_are_named_apart_and_not_written(tmp_path):
    ids = np.arange(61)
    figure = class_confusion(ids, ids[::-1], [f"crop_{c}_some disease_serious" for c in ids])
    save(figure, tmp_path / "confusion.png")
    axes = figure.axes[0]
    assert not axes.texts
    np.testing.assert_array_equal(axes.images[0].get_array(), np.eye(61)[::-1])
    for labels, low, high in ((axes.get_xticklabels(), "x0", "x1"), (axes.get_yticklabels()[::-1], "y0", "y1")):
        boxes = [label.get_window_extent() for label in labels]
        assert all(getattr(after, low) >= getattr(before, high) - 1 for before, after in pairwise(boxes))


def test_nothing_to_draw_and_ids_without_a_name_are_refused():
    with pytest.raises(UserError, match="no images"):
        class_confusion([], [], ["a", "b"])
    for labels, predicted in (([0, 2], [0, 1]), ([0, 1], [0, 2]), ([-1, 0], [0, 0])):
        with pytest.raises(ValueError, match=r"in 0\.\.1"):
            class_confusion(labels, predicted, ["a", "b"])
