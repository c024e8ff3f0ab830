"""Parts of the training posts that are predicted by classifiers trained on the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from core.data import post_splits
from core.data.posts import Posts
from core.errors import UserError


def groups_of(train: Posts, source: Sequence[str]) -> np.ndarray:
    """Return (N,) group numbers: posts that share image, text or source are in one group."""
    return post_splits.group(len(train), post_splits.keys_of(train) | {"source": list(source)})


def fold_of(train: Posts, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return (N,) the fold of each post, stratified by class; a group (N,) is in one fold.

    Raises UserError for a class with fewer groups than folds.
    """
    for label, name in enumerate(train.class_names):
        n_groups = len(np.unique(groups[train.truth == label]))
        if n_groups < folds:
            raise UserError(
                f"class {name} has {n_groups} groups of posts without common image or text, fewer than folds = {folds}; lower folds"
            )
    found = np.zeros(len(train), np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, predicted) in enumerate(splitter.split(np.zeros(len(train)), train.truth, groups)):
        found[predicted] = fold
    for fold in range(folds):
        absent = set(range(len(train.class_names))) - set(train.truth[found != fold].tolist())
        if absent:
            raise UserError(f"without fold {fold} no {train.class_names[min(absent)]} post is left to train on; lower folds or change seed")
    return found
