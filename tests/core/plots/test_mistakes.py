"""The surest mistakes come first, each with its own picture and texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.plots.figure import save
from core.plots.mistakes import COLUMNS, mistakes, worst_mistakes


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_worst_mistakes_equal_a_plain_sort(seed, n):
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 4, (20, 3))
    labels, probabilities = rng.integers(0, 3, 20), weights / weights.sum(axis=1, keepdims=True)
    wrong = [i for i, p in enumerate(probabilities.tolist()) if p.index(max(p)) != labels[i]]
    expected = sorted(wrong, key=lambda i: (-max(probabilities[i]), i))[:n]
    assert worst_mistakes(labels, probabilities, n).tolist() == expected


def test_a_perfect_classifier_has_no_worst_mistake():
    assert worst_mistakes(np.arange(3), np.eye(3)).tolist() == []
    figure = mistakes([], [], [], [])
    assert [text.get_text() for text in figure.texts] == ["no mistakes among the evaluated images"]


def test_nothing_evaluated_is_a_users_mistake():
    with pytest.raises(UserError, match="no images to evaluate"):
        worst_mistakes(np.zeros(0, np.int64), np.zeros((0, 3)))


def pictures(n: int) -> list[np.ndarray]:
    """Return images of different sizes."""
    return [np.random.default_rng(i).integers(0, 255, (8 + i, 12, 3)).astype(np.uint8) for i in range(n)]


def test_each_picture_stands_over_its_texts(tmp_path):
    images = pictures(COLUMNS + 2)
    figure = mistakes(images, [f"t{i}" for i in range(8)], [f"p{i}" for i in range(8)], np.linspace(1.0, 0.3, 8))
    save(figure, tmp_path / "mistakes.png")
    for image, axes in zip(images, figure.axes, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
    texts = [text.get_text() for text in figure.texts]
    assert texts[:4] == ["true: t0", "said 1.00: p0", "true: t1", "said 0.90: p1"] and len(texts) == 16
    for place, axes in enumerate(figure.axes):
        box = axes.get_position()
        for text in figure.texts[2 * place : 2 * place + 2]:
            assert text.get_position()[1] < box.y0
            assert abs(text.get_position()[0] - axes.get_position(original=True).x0) < 1e-9
    rows = {round(axes.get_position().y0, 6) for axes in figure.axes}
    assert len(rows) == 2


def test_captions_come_last_and_dollars_stay(tmp_path):
    caption = "it costs $5 now and $7 later, so hurry up and tell everyone whom you know about it, twice if you can, please do"
    figure = mistakes(pictures(2), ["a", "b"], ["b", "a"], [0.9, 0.8], [caption, ""])
    save(figure, tmp_path / "mistakes.png")
    texts = [text.get_text() for text in figure.texts]
    assert len(texts) == 5
    assert not any(text.get_parse_math() for text in figure.texts)
    assert texts[2].startswith("it costs $5 now and $7 later") and texts[2].endswith("…") and texts[2].count("\n") == 2


def test_long_names_are_broken_at_underscores_inside_their_tile(tmp_path):
    name = "tomato_spider_mites_two_spotted_spider_mite"
    figure = mistakes(pictures(3), [name] * 3, ["x"] * 3, [0.9] * 3)
    save(figure, tmp_path / "mistakes.png")
    first, second = figure.texts[0], figure.texts[2]
    assert first.get_text().replace("\n", "") == f"true: {name}" and "_\n" in first.get_text()
    assert first.get_window_extent().x1 < second.get_window_extent().x0


@pytest.mark.parametrize("cut", range(4))
def test_arguments_of_different_length_are_refused(cut):
    given_ = [["a", "b"], ["b", "a"], [0.5, 0.5], ["", ""]]
    given_[cut] = given_[cut][:1]
    with pytest.raises(ValueError, match="2 images"):
        mistakes(pictures(2), *given_)
