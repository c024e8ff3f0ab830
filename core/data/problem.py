"""A discovery problem as training may know it, and the truth apart from it, which only reports are given.

    read (catalog.load) -> who is labelled (splits.make_split) -> pose -> Problem, Truth

Whatever trains, clusters, chooses a cell, counts classes or registers takes a `Problem`: a label that nobody gave is not in it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from core import digest
from core.data.images import NOBODY_SAID, DiscoveryData, ImageSet, Skipped, digest_of_images
from core.data.splits import Split


@dataclass(frozen=True, eq=False)
class Problem:
    """Images and the labels that people gave.

    Attributes:
        name: of the data set.
        train: all training images; labels are indices into `known_names` for labelled and held-out images, NOBODY_SAID elsewhere.
        test: images that take part in nothing; their labels are NOBODY_SAID.
        known_names: the labelled classes.
        novel_names: of a benchmark, the classes that it declares to be novel; () where nobody knows them, as on a heap.
        counted: whether the number of classes is declared, as benchmarks do: then K = known and novel names.
        labels_digest: of the labels from which the split has drawn: those that were given on a heap, those of known classes on a
            benchmark.
        skipped: files that were left out.
        withheld: (N,) the label of images whose class training is not told on purpose (core.data.withheld), NOBODY_SAID elsewhere.
    """

    name: str
    train: ImageSet
    test: ImageSet
    known_names: tuple[str, ...]
    novel_names: tuple[str, ...] = ()
    counted: bool = True
    labels_digest: str = ""
    skipped: tuple[Skipped, ...] = ()
    withheld: np.ndarray | None = None

    @property
    def n_declared(self) -> int | None:
        """The declared number of classes; None where nobody knows it."""
        return len(self.known_names) + len(self.novel_names) if self.counted else None

    @cached_property
    def digest(self) -> str:
        """The sha256 of pixels, ids, labels that may be given, and the names of known and declared novel classes; of no split."""
        return digest.of_json([self.images_digest, self.labels_digest, list(self.known_names), list(self.novel_names), self.counted])

    @property
    def images_digest(self) -> str:
        """The sha256 of pixels and ids of both parts: the same whatever is labelled."""
        return digest_of_images(self.train, self.test)


@dataclass(frozen=True, eq=False)
class Truth:
    """True classes, as far as they are known. Only reports may hold one.

    Attributes:
        train: (N,) int64 index into `class_names` of every training image, NOBODY_SAID where unknown.
        test: (M,) the same of the test images.
        class_names: of all classes, known and novel.
        known_classes: indices of those that may be labelled.
    """

    train: np.ndarray
    test: np.ndarray
    class_names: tuple[str, ...]
    known_classes: frozenset[int]

    @property
    def digest(self) -> str:
        """The sha256 of all of it: what figures against it depend on, and no result does."""
        names = [list(self.class_names), sorted(self.known_classes)]
        return digest.of_json([digest.of_array(self.train), digest.of_array(self.test), *names])

    @property
    def known_first(self) -> np.ndarray:
        """The training images' classes (N,) numbered as a problem numbers its own: the known ones, then the novel ones."""
        novel = [c for c in range(len(self.class_names)) if c not in self.known_classes]
        position = np.full(len(self.class_names) + 1, NOBODY_SAID, np.int64)  # one more: NOBODY_SAID is the last
        position[[*sorted(self.known_classes), *novel]] = np.arange(len(self.class_names))
        return position[self.train]

    def tells(self, indices: np.ndarray) -> bool:
        """Say whether the true class of any of these training images is known."""
        return bool((self.train[indices] != NOBODY_SAID).any())


class Posed(NamedTuple):
    """What a stage starts from; `truth` goes to what reports and to nothing else."""

    data: Problem
    split: Split
    truth: Truth


def pose(read: DiscoveryData, split: Split) -> Posed:
    """Return the problem, the split, and the truth apart.

    Args:
        read: the data set with every label that is known of it.
        split: who is labelled.
    """
    known = sorted(read.known_classes)
    position = np.full(len(read.class_names) + 1, NOBODY_SAID, np.int64)  # one more: NOBODY_SAID is the last
    position[known] = np.arange(len(known))
    may = position[read.train.labels] if read.given is None else np.where(read.given, position[read.train.labels], NOBODY_SAID)
    told = np.isin(np.arange(len(may)), np.concatenate([split.labelled, split.validation]))
    labels = np.where(told, may, NOBODY_SAID)
    counted = read.given is None
    novel = tuple(read.novel_names) if counted else ()
    train = dataclasses.replace(read.train, labels=labels)
    test = dataclasses.replace(read.test, labels=np.full(len(read.test), NOBODY_SAID, np.int64))
    truth = Truth(read.train.labels, read.test.labels, read.class_names, read.known_classes)
    return Posed(Problem(read.name, train, test, tuple(read.known_names), novel, counted, digest.of_array(may), read.skipped), split, truth)
