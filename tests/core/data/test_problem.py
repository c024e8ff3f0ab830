"""The truth is taken out of a data set: nothing of it is left in what training gets, and nothing of what people gave is lost."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.images import ArrayImages, DiscoveryData, ImageSet
from core.data.problem import NOBODY_SAID, pose
from core.data.splits import make_split

CLASSES = ("ant", "bee", "cow", "doe")


def images(part: str, labels: list[int]) -> ImageSet:
    pixels = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 1, 1, 3), np.uint8)
    return ImageSet(tuple(f"{part}/{i}" for i in range(len(labels))), np.array(labels, np.int64), ArrayImages(pixels))


def world(train: list[int], known: frozenset[int] = frozenset((0, 2))) -> DiscoveryData:
    return DiscoveryData("four", images("train", train), images("test", [0, 1, 2, 3]), CLASSES, known)


BENCHMARK = world([0, 1, 2, 3] * 10)


@pytest.fixture
def posed():
    return pose(BENCHMARK, make_split(BENCHMARK.train.labels, {0, 2}, 0.5, 0.2, 1))


def test_labelled_and_held_out_images_alone_have_a_label(posed):
    data, split, truth = posed
    told = np.concatenate([split.labelled, split.validation])
    assert [data.known_names[label] for label in data.train.labels[told]] == [CLASSES[c] for c in BENCHMARK.train.labels[told]]
    assert (data.train.labels[split.unlabelled] == NOBODY_SAID).all() and (data.test.labels == NOBODY_SAID).all()
    assert truth.train.tolist() == BENCHMARK.train.labels.tolist() and truth.test.tolist() == [0, 1, 2, 3]


def test_a_benchmark_declares_how_many_classes_there_are_and_a_heap_does_not(posed):
    assert (posed.data.known_names, posed.data.novel_names, posed.data.n_declared) == (("ant", "cow"), ("bee", "doe"), 4)
    heap = dataclasses.replace(BENCHMARK, given=np.arange(40) < 8)
    of_heap = pose(heap, make_split(np.where(heap.given, heap.train.labels, -1), {0, 2}, 1.0, 0.0, 1))
    assert (of_heap.data.novel_names, of_heap.data.n_declared) == ((), None)


@given(st.lists(st.sampled_from([-1, 0, 1, 2, 3]), min_size=32, max_size=32))
def test_no_truth_of_the_heap_changes_what_training_gets(truth):
    """Any truth of the 32 unlabelled images, none included: problem, split and their digests are equal to a bit."""
    mask = np.arange(40) < 8
    labels = [0, 2] * 4
    split = make_split(np.array(labels + [-1] * 32), {0, 2}, 1.0, 0.25, 1)
    one, other = (pose(dataclasses.replace(world(labels + rest), given=mask), split) for rest in ([NOBODY_SAID] * 32, truth))
    assert one.data.digest == other.data.digest and one.data.train.labels.tolist() == other.data.train.labels.tolist()
    assert (one.truth.digest == other.truth.digest) == (truth == [NOBODY_SAID] * 32)
    assert not one.truth.tells(split.unlabelled) and other.truth.tells(split.unlabelled) == any(label >= 0 for label in truth)


def test_the_digest_is_of_images_names_and_given_labels_and_of_no_split(posed):
    again = pose(BENCHMARK, make_split(BENCHMARK.train.labels, {0, 2}, 0.5, 0.2, 2))
    assert again.data.digest == posed.data.digest and again.data.images_digest == BENCHMARK.images_digest
    other = world([2, 1, 0, 3] * 10)
    split = make_split(other.train.labels, {0, 2}, 0.5, 0.2, 1)
    assert pose(other, split).data.digest != posed.data.digest
    assert pose(dataclasses.replace(BENCHMARK, class_names=("a", "bee", "cow", "doe")), split).data.digest != posed.data.digest
