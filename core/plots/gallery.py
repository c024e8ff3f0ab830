"""Gallery of discovered categories: a row each, with the images nearest the middle of the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from core.errors import UserError
from core.plots.figure import KNOWN_COLOUR, NOVEL_COLOUR

COLUMNS = 16
_GAP = 0.06
_TILE_INCHES = 0.72


@dataclass(frozen=True)
class GalleryGroup:
    """One category: `images` uint8 (n, H, W, 3), most central first; `known` None when nobody can tell; `purity` None without truth.

    `size` is the number of images in the category, of which only 16 are shown; `purity` is a fraction.
    """

    title: str
    images: np.ndarray
    known: bool | None
    purity: float | None
    size: int


def most_central(features: np.ndarray, labels: np.ndarray, cluster: int, n: int = COLUMNS) -> np.ndarray:
    """Return the indices (at most `n`) of the members of `cluster` with the largest cosine to the mean of its features.

    features (N, d), labels (N,). Most central first, ties to the smaller index; empty when the cluster is.
    """
    members = np.flatnonzero(np.asarray(labels) == cluster)
    points = np.asarray(features)[members].astype(np.float64)
    mean = points.mean(axis=0) if len(members) else np.zeros(points.shape[1:])
    lengths = np.linalg.norm(points, axis=1) * np.linalg.norm(mean)
    cosines = np.divide(points @ mean, lengths, out=np.zeros(len(members)), where=lengths > 0)
    # Rounded, so that copies of one image tie whatever the order of the sums.
    return members[np.argsort(-cosines.round(12), kind="stable")[:n]]


def gallery(groups: Sequence[GalleryGroup]) -> Figure:
    """Draw a row for each of `groups`: a heading with 'known' or 'novel', size and purity, below it up to 16 images.

    Raises UserError without groups.
    """
    if not groups:
        raise UserError("there are no categories to show: the clustering is empty")
    height = _TILE_INCHES + 0.36
    figure = Figure(figsize=(COLUMNS * _TILE_INCHES + 0.3, len(groups) * height + 0.15))
    rows = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    figure.subplots_adjust(left=0.012, right=0.988, top=1 - 0.32 / (len(groups) * height), bottom=0.01, hspace=0.42)
    for axes, group in zip(rows, groups, strict=True):
        axes.set_axis_off()
        axes.set_title(heading(group), loc="left", fontsize=10, pad=3, color=_colour(group.known), fontweight="bold")
        if len(group.images):
            # `aspect` keeps each tile square; left-aligned, so that short rows line up with full ones.
            axes.imshow(strip(group.images), interpolation="nearest", aspect="equal")
            axes.set_anchor("W")
        else:
            axes.text(0.0, 0.5, "no image", transform=axes.transAxes, fontsize=9, color="#737373", va="center")
    return figure


def heading(group: GalleryGroup) -> str:
    """Return e.g. ``oak_tree - known, 120 images, 83 % pure``; what is not known is left out."""
    parts = [] if group.known is None else ["known" if group.known else "novel"]
    parts.append(f"{group.size:,} image{'' if group.size == 1 else 's'}")
    if group.purity is not None:
        parts.append(f"{100 * group.purity:.0f} % pure")
    return f"{group.title} - {', '.join(parts)}"


def strip(images: np.ndarray) -> np.ndarray:
    """Return up to 16 images (n, H, W, 3) side by side on white, as one uint8 (H, 16 tiles wide, 3) picture with gaps between them."""
    images = np.asarray(images, dtype=np.uint8)[:COLUMNS]
    height, width = images.shape[1:3]
    gap = max(1, round(_GAP * width))
    canvas = np.full((height, COLUMNS * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for place, image in enumerate(images):
        left = place * (width + gap)
        canvas[:, left : left + width] = image
    return canvas


def _colour(known: bool | None) -> str:
    """Return the colour of a heading."""
    if known is None:
        return "#404040"
    return KNOWN_COLOUR if known else NOVEL_COLOUR
