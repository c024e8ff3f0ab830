"""Folds of training posts: tested where they are used first, in test_mining."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import UserError
from core.stages.posts import folds
from tests.core.stages.posts import tiny_posts


def test_every_post_is_in_one_fold_and_groups_stay_together(tmp_path):
    train = tiny_posts.parts(tiny_posts.write(tmp_path / "root"))["train"]
    source = [train.guids[0] if i < 3 else guid for i, guid in enumerate(train.guids)]
    groups = folds.groups_of(train, source)
    found = folds.fold_of(train, groups, 3, seed=1)
    assert sorted(set(found.tolist())) == [0, 1, 2] and len(np.unique(found[:3])) == len(np.unique(groups[:3])) == 1
    with pytest.raises(UserError, match="class neutral has 6 groups of posts without common image or text, fewer than folds = 7"):
        folds.fold_of(train, groups, 7, seed=1)
