"""A validation part for data that come without one: split off the training part, class by class, by whole groups."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import cast

import numpy as np

from core.data import near_duplicates, splits
from core.data.classification import ClassificationData
from core.data.heap import joined
from core.data.images import SHOWN, FileImages, ImageSet, subset


def split_off(data: ClassificationData, groups: Sequence[str], share: float, seed: int, where: str) -> ClassificationData:
    """Return the data with about `share` of each class's training images as validation part, and say so in one line.

    Images of one group, of one content and of one look (core.data.near_duplicates) are never parted. At least one image of a class is
    split off, and at most half of them; of a class that is a single image or group, or in one group with another class, none is.

    Args:
        data: with image files for training. groups: (N,) the group of each of these as the user says it, '' = none.
        share: above 0, at most .5. seed: of the draw.
        where: what the line names as the place of the images.
    """
    numbers = together(data.train, groups)
    rows = np.arange(len(data.train))
    held = splits.hold_out_groups(data.train.labels, rows, numbers, rows[:0], share, np.random.default_rng(seed), each_class=True)
    whole = [data.class_names[c] for c in np.setdiff1d(data.train.labels, data.train.labels[held])]
    print(f"taxon: {_said(len(held), len(rows), len(np.unique(numbers)), share, seed, where)}{_left(whole)}", file=sys.stderr)
    if not len(held):
        return data
    return dataclasses.replace(data, train=subset(data.train, np.delete(rows, held)), val=subset(data.train, held), val_split_off=True)


def together(images: ImageSet, groups: Sequence[str]) -> np.ndarray:
    """Return (N,) int64 numbers that are equal where a chain of groups ('' = none), contents and looks joins two image files."""
    alike = near_duplicates.find(images.source, cast(FileImages, images.source).file_digests)
    looks = [f"alone {i}" if number == near_duplicates.ALONE else str(number) for i, number in enumerate(alike.tolist())]
    return joined(groups, looks)


def _said(held: int, images: int, groups: int, share: float, seed: int, where: str) -> str:
    by = "; duplicates and groups stay together" if groups < images else ""
    return f"no validation part was given: {held} of the {images} images of {where} are it (val_share = {share:g}, seed = {seed}{by})"


def _left(names: Sequence[str]) -> str:
    """Return what is said of classes that have no validation image."""
    more = f" and {len(names) - SHOWN} more classes" if len(names) > SHOWN else ""
    return f"; without any, as a single image or group: {', '.join(names[:SHOWN])}{more}" if names else ""
