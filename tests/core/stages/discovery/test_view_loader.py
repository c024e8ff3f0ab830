"""Fresh views, or kept ones of as many as were asked for; kept views lie where everything that they depend on says."""

from __future__ import annotations

import pytest

from core.data.loader import ViewLoader
from core.stages.discovery import train
from core.training.view_cache import CachedViews


def made(place, **options):
    training = train.Training(place.config(grad_from_block=2, **options), place.run())
    return training, training._loader()


def test_fresh_views_keep_nothing(place):
    training, loader = made(place, view_cache=0)
    assert type(loader) is ViewLoader and training.view_cache == 0
    assert not list(place.folder.rglob("views/*"))


@pytest.mark.parametrize(("asked", "kept"), [(3, 3), ("auto", 10)])
def test_as_many_views_are_kept_as_asked_for(place, asked, kept):
    training, loader = made(place, view_cache=asked)
    assert type(loader) is CachedViews and training.view_cache == loader.n_cached == kept
    assert loader.outputs.shape[:2] == (len(training.materials.data.train), kept)


def test_a_file_for_each_seed_and_number_and_one_for_arms_that_share_them(place):
    for options in ({}, {"objective": "both"}, {"lr": 0.1}, {"seed": 2}, {"view_cache": 4}, {"hidden_classes": 1}):
        made(place, **{"view_cache": 3} | options)
    assert len(list(place.folder.rglob("views/*.safetensors"))) == 3
