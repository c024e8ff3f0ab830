"""scikit-learn's bundled handwritten digits: 1,797 real 8x8 images, no download. The data set of the quick run."""

from __future__ import annotations

import numpy as np

from core.data.images import ArrayImages, DiscoveryData, ImageSet
from core.data.novel import parse_known_classes

DEFAULT_NOVEL = "7,8,9"
_TEST_FRACTION = 0.25


def load(novel_classes: str = DEFAULT_NOVEL) -> DiscoveryData:
    """Return the digits as 8x8 RGB with a fixed, stratified 75/25 split into train and test.

    `novel_classes`: comma separated digits ('' = the default 7,8,9). Ids carry the record number in scikit-learn's order.
    """
    from sklearn.datasets import load_digits  # seconds, which other data sets need not wait for

    records = load_digits()
    grey = np.rint(records.images * (255 / 16)).astype(np.uint8)  # the published values are 0..16
    pixels = np.repeat(grey[..., None], 3, axis=3)
    labels = records.target.astype(np.int64)
    names = tuple(str(digit) for digit in range(10))
    known = parse_known_classes(novel_classes.strip() or DEFAULT_NOVEL, names)
    test = _test_records(labels)

    def images(part: str, records: np.ndarray) -> ImageSet:
        return ImageSet(tuple(f"{part}/{i:05d}" for i in records), labels[records], ArrayImages(pixels[records]))

    return DiscoveryData("digits", images("train", np.setdiff1d(np.arange(len(labels)), test)), images("test", test), names, known)


def _test_records(labels: np.ndarray) -> np.ndarray:
    """Return the sorted test records: a quarter of each digit, always the same (the split is part of the data set)."""
    rng = np.random.default_rng(0)
    members = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    return np.sort(np.concatenate([member[: round(_TEST_FRACTION * len(member))] for member in members]))
