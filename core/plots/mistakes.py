"""The worst mistakes as thumbnails: what was seen, what it is, what it was taken for and how surely."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from core.evaluation.classification import checked
from core.plots.figure import NOVEL_COLOUR

COLUMNS = 6
_TILE_INCHES = 1.75
_LINE_INCHES = 0.145
_LINE_CHARACTERS = 30


def worst_mistakes(labels: np.ndarray, probabilities: np.ndarray, n: int = 24) -> np.ndarray:
    """Return the indices (at most `n`) of the wrong predictions with the highest probability, surest first, ties to the smaller index.

    labels (N,), probabilities (N, C). Raises as `core.evaluation.classification.report` does.
    """
    labels, probabilities = checked(labels, probabilities)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")[:n]]


def mistakes(
    images: Sequence[np.ndarray] | np.ndarray,
    true: Sequence[str],
    predicted: Sequence[str],
    confidences: Sequence[float],
    captions: Sequence[str] | None = None,
) -> Figure:
    """Draw each of `images`, uint8 (H, W, 3) of any sizes, over its true name, its predicted name and the confidence (0..1) in it.

    `captions` (a post's text) come below, cut to three lines. Without images the figure says that nothing was wrong. Raises ValueError when
    the arguments differ in length.
    """
    n = len(images)
    captions = [""] * n if captions is None else captions
    if not n == len(true) == len(predicted) == len(confidences) == len(captions):
        raise ValueError(f"{n} images, {len(true)} true and {len(predicted)} predicted names, {len(confidences)} confidences")
    if not n:
        figure = Figure(figsize=(4.0, 1.0))
        figure.text(0.5, 0.5, "no mistakes among the evaluated images", ha="center", va="center", fontsize=10)
        return figure
    texts = [_texts(*item) for item in zip(true, predicted, confidences, captions, strict=True)]
    n_lines = max(sum(text.count("\n") + 1 for text, _ in parts) for parts in texts)
    below = n_lines * _LINE_INCHES + 0.16
    columns = min(COLUMNS, n)
    rows = -(-n // columns)
    cell = (_TILE_INCHES + 0.2, _TILE_INCHES + below)
    width, height = columns * cell[0] + 0.2, rows * cell[1] + 0.1
    figure = Figure(figsize=(width, height))
    for place, (image, parts) in enumerate(zip(images, texts, strict=True)):
        left = 0.2 + place % columns * cell[0]
        bottom = height - 0.1 - place // columns * cell[1] - _TILE_INCHES
        axes = figure.add_axes((left / width, bottom / height, _TILE_INCHES / width, _TILE_INCHES / height))
        axes.set_axis_off()
        axes.imshow(np.asarray(image, dtype=np.uint8), aspect="equal", interpolation="antialiased")
        axes.set_anchor("S")
        top = bottom - 0.05
        for text, colour in parts:
            figure.text(left / width, top / height, text, fontsize=7, va="top", color=colour, linespacing=1.2, parse_math=False)
            top -= (text.count("\n") + 1) * _LINE_INCHES
    return figure


def _texts(true: str, predicted: str, confidence: float, caption: str) -> list[tuple[str, str]]:
    """Return the wrapped texts below a picture with their colours, top to bottom."""
    parts = [(_wrapped(f"true: {true}"), "black"), (_wrapped(f"said {confidence:.2f}: {predicted}"), NOVEL_COLOUR)]
    return [*parts, (_wrapped(caption), "#737373")] if caption else parts


def _wrapped(text: str) -> str:
    """Return `text` in at most three lines, broken after spaces and underscores."""
    pieces = text.replace("_", "_ ")
    lines = textwrap.wrap(pieces, _LINE_CHARACTERS, max_lines=3, placeholder=" …")
    return "\n".join(lines).replace("_ ", "_")
