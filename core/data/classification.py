"""A data set for classification: three parts with one label map, and what else is known of each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from core import digest
from core.data.images import ImageSet


@dataclass(frozen=True, eq=False)
class Attribute:
    """What a coarser label says of each class: a crop's name, a disease, a severity.

    names: name of attribute value i. of_class: (C,) int64, the value of each class.
    """

    names: tuple[str, ...]
    of_class: np.ndarray


@dataclass(frozen=True, eq=False)
class ClassificationData:
    """Images with one label each.

    name: 'crop_disease', the folder's or metadata's name.
    class_names: name of class index i.
    train, val, test: the parts; test may be empty. Every class has training images; not every class has others.
    attributes: 'crop', 'disease', 'severity', as far as the metadata says them.
    class_weights: (C,) float64 as read from class_weights.csv; None = N / (C * n_c) of the training part.
    val_split_off: the validation part was split off the training part, as none was given.
    """

    name: str
    class_names: tuple[str, ...]
    train: ImageSet
    val: ImageSet
    test: ImageSet
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    class_weights: np.ndarray | None = None
    val_split_off: bool = False

    @property
    def class_counts(self) -> np.ndarray:
        """(C,) int64 number of training images of each class."""
        return np.bincount(self.train.labels, minlength=len(self.class_names))

    @property
    def weights(self) -> np.ndarray:
        """(C,) float64 class weights: the given ones, else N / (C * n_c), whose mean over the training images is 1."""
        if self.class_weights is not None:
            return self.class_weights
        counts = self.class_counts
        return counts.sum() / (len(counts) * counts)

    @cached_property
    def digest(self) -> str:
        """The sha256 of pixels, labels, ids, class names, attributes and weights."""
        parts = [[part.source.digest, digest.of_array(part.labels), list(part.ids)] for part in (self.train, self.val, self.test)]
        attributes = {name: [list(a.names), a.of_class.tolist()] for name, a in sorted(self.attributes.items())}
        return digest.of_json([parts, list(self.class_names), attributes, self.weights.tolist()])


def tail_classes(class_counts: np.ndarray, share: float = 0.25) -> np.ndarray:
    """Return the rarest `share` of the classes, ascending ids: at least one, ties to the smaller id (61 classes: 15, 15 classes: 4)."""
    n = max(1, round(len(class_counts) * share))
    return np.sort(np.argsort(class_counts, kind="stable")[:n])
