"""Withheld classes: wholly unlabelled to training, their labels kept apart, the truth and all else as it was."""

from __future__ import annotations

import numpy as np
import pytest

from core.data.images import ArrayImages, DiscoveryData, ImageSet
from core.data.problem import NOBODY_SAID, pose
from core.data.splits import make_split
from core.data.withheld import withhold
from tests.core.stages.tiny import refused


def posed(seed: int = 1):
    labels = np.repeat(np.arange(5), 20)
    train, test = (
        ImageSet(tuple(f"{part}/{i}" for i in range(100)), labels, ArrayImages(np.zeros((100, 1, 1, 3), np.uint8)))
        for part in ("train", "test")
    )
    data = DiscoveryData("five", train, test, tuple("abcde"), frozenset((0, 1, 2, 4)))
    return pose(data, make_split(labels, data.known_classes, 0.8, 0.25, seed))


@pytest.mark.parametrize("n", [1, 3])
def test_whole_classes_move_to_the_unlabelled_images(n):
    before = posed()
    data, split, truth = withhold(before, n)
    moved = np.flatnonzero(data.withheld != NOBODY_SAID)
    hidden = np.unique(data.withheld[moved])
    told = np.concatenate([before.split.labelled, before.split.validation])
    assert len(hidden) == n and sorted(moved) == sorted(told[np.isin(before.data.train.labels[told], hidden)])
    assert (data.withheld[moved] == before.data.train.labels[moved]).all() and (data.train.labels[moved] == NOBODY_SAID).all()
    assert split.unlabelled.tolist() == sorted([*before.split.unlabelled, *moved])
    assert not set(moved) & {*split.labelled, *split.validation}
    assert sorted([*split.labelled, *split.validation, *split.unlabelled]) == list(range(100))
    assert truth is before.truth and data.n_declared == before.data.n_declared == 5
    assert split.digest != before.split.digest


def test_the_seed_draws_the_classes_and_none_means_none():
    drawn = {tuple(np.unique(withhold(posed(seed), 1).data.withheld)) for seed in range(12)}
    assert len(drawn) == 4
    before = posed()
    assert withhold(before, 0) is before


def test_a_labelled_class_has_to_stay():
    assert refused(lambda: withhold(posed(), 4)) == "hidden_classes = 4, but five has 4 labelled classes, of which one must stay; lower it"
