"""Names are drawn as they are, in whatever script: no formula, no warning, no box in place of a letter."""

import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from core.plots import figure


def drawn(path, text):
    """The ink of a text drawn alone as tick label and title: (H, W) grey."""
    one = Figure(figsize=(4, 1))
    axes = one.subplots()
    axes.set_yticks([0], [text])
    axes.set_title(text, fontweight="bold")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.save(one, path)
    return np.asarray(Image.open(path).convert("L"))


@pytest.mark.parametrize(
    "text", ["健康", "稻瘟病 / 繁體字", "さび病 カビ", "größe", "Грипп", "$5_to_$10", "a_b^{c", "\\frac", "\u200b\u0301"]
)
def test_names_are_drawn_without_a_word(tmp_path, capsys, caplog, text):
    drawn(tmp_path / "a.png", text)
    assert capsys.readouterr().err == "" and not caplog.messages


def test_other_letters_give_another_picture(tmp_path):
    """Letters without glyph would all be the same box."""
    pictures = [drawn(tmp_path / "a.png", text) for text in ("健", "康", "稻", "病")]
    assert all((a != b).any() for i, a in enumerate(pictures) for b in pictures[:i])


def test_a_dollar_starts_no_formula(tmp_path):
    assert (drawn(tmp_path / "a.png", "$a$") != drawn(tmp_path / "b.png", "a")).mean() > 0.001


def test_a_letter_that_no_font_has_is_said_in_one_line(tmp_path, capsys, monkeypatch):
    own = figure.font_manager.fontManager
    monkeypatch.setattr(own, "ttflist", [entry for entry in own.ttflist if entry.name in figure.rcParams["font.family"]])
    one = Figure(figsize=(4, 1))
    one.suptitle("a한")
    figure.save(one, tmp_path / "a.png")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no font of this machine has 한" in said and "a.png" in said


def test_the_machines_fonts_are_searched_for_letters_that_the_own_ones_lack(tmp_path, monkeypatch):
    own = figure.font_manager.fontManager
    noto = next(entry for entry in own.ttflist if entry.name == "Noto Sans SC")
    monkeypatch.setattr(own, "ttflist", [noto])
    assert figure._fonts_with("健\U000e0fff") == ["Noto Sans SC"]
    assert figure._fonts_with("\U000e0fff") == []
