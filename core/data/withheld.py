"""Labelled classes whose labels training is not told: a discovery whose answer is known, without the truth of any unlabelled image.

Whole classes are withheld, so that they are found, or not, as novel ones are; a model selection may ask which of these happened.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from core import digest
from core.data.images import NOBODY_SAID
from core.data.problem import Posed
from core.errors import UserError

STREAM = 0x41DDE  # keeps this draw apart from the split's


def withhold(posed: Posed, n_classes: int) -> Posed:
    """Return the problem with the labels of `n_classes` of its labelled classes withheld, drawn by the split's seed.

    All their labelled and held-out images become unlabelled ones; `Problem.withheld` keeps their labels. The truth is as it was.
    Raises UserError where no labelled class would be left.
    """
    data, split, truth = posed
    labelled = np.unique(data.train.labels[split.labelled])
    if not n_classes:
        return posed
    if n_classes >= len(labelled):
        raise UserError(
            f"hidden_classes = {n_classes}, but {data.name} has {len(labelled)} labelled classes, of which one must stay; lower it"
        )
    hidden = np.sort(np.random.default_rng([split.seed, STREAM]).choice(labelled, n_classes, replace=False))
    labels = data.train.labels
    withheld = np.where(np.isin(labels, hidden), labels, NOBODY_SAID)
    moved = np.flatnonzero(withheld != NOBODY_SAID)
    withheld_split = dataclasses.replace(
        split,
        labelled=np.setdiff1d(split.labelled, moved),
        validation=np.setdiff1d(split.validation, moved),
        unlabelled=np.union1d(split.unlabelled, moved),
        digest=digest.of_json([split.digest, "withheld", hidden.tolist()]),
    )
    train = dataclasses.replace(data.train, labels=np.where(withheld != NOBODY_SAID, NOBODY_SAID, labels))
    return Posed(dataclasses.replace(data, train=train, withheld=withheld), withheld_split, truth)
