"""Counts, weights, digest and tail of a classification data set."""

from __future__ import annotations

import numpy as np
import pytest

from core.data.classification import Attribute, ClassificationData, tail_classes
from core.data.images import ArrayImages, ImageSet


def images(part: str, labels: list[int]) -> ImageSet:
    pixels = np.full((len(labels), 2, 2, 3), 7, np.uint8)
    return ImageSet(tuple(f"{part}/{i}" for i in range(len(labels))), np.array(labels, np.int64), ArrayImages(pixels))


def data(**values) -> ClassificationData:
    return ClassificationData("leaves", ("a", "b"), images("train", [0, 0, 0, 1]), images("val", [0]), images("test", []), **values)


def test_weights_are_inverse_to_the_counts_with_mean_one_over_the_images():
    found = data()
    assert found.class_counts.tolist() == [3, 1]
    assert found.weights.tolist() == pytest.approx([4 / 6, 4 / 2])
    assert found.weights[found.train.labels].mean() == pytest.approx(1.0)
    assert data(class_weights=np.array([1.0, 5.0])).weights.tolist() == [1.0, 5.0]


def test_the_digest_sees_weights_and_attributes():
    severity = {"severity": Attribute(("low", "high"), np.array([0, 1], np.int64))}
    digests = {data().digest, data(class_weights=np.ones(2)).digest, data(attributes=severity).digest}
    assert len(digests) == 3 and data().digest in digests


def test_the_tail_is_a_quarter_of_the_classes_and_ties_go_to_the_smaller_id():
    assert tail_classes(np.array([5, 1, 9, 1, 1, 7, 8, 6])).tolist() == [1, 3]
    assert tail_classes(np.array([4, 2])).tolist() == [1]
    assert [len(tail_classes(np.arange(n))) for n in (61, 15)] == [15, 4]
