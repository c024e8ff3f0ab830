"""Folds whose weights know the held-out images are refused before a tower is built."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from core.errors import UserError
from core.lineage import Lineage, flat, read
from core.stages.clip import train


@pytest.mark.parametrize("option", ["image_weights", "text_weights"])
def test_a_fold_refuses_weights_that_know_it(clip_place, tmp_path, option):
    folds = {"use_cv": True, "n_splits": 2, "fold": 1}
    prepared = train.prepare(clip_place.config(**folds))
    parts = train._parts(prepared.config, prepared.m.pool)
    assert prepared.lineage == Lineage(flat(parts.train), chosen=flat(parts.val))
    other = Lineage(trained=flat(parts.train) | flat(parts.val))
    save_file({"w": torch.ones(1)}, tmp_path / "w.safetensors", other.metadata())
    with pytest.raises(UserError, match=rf"{option} = '.*w\.safetensors' has learnt from .* of the .* images"):
        train.prepare(clip_place.config(**folds | {"fold": 2, option: str(tmp_path / "w.safetensors")}))


def test_a_checkpoint_and_what_is_served_know_their_images(clip_place, monkeypatch):
    training = clip_place.fitted(epochs=1)
    assert read(next((training.work / "checkpoints").glob("epoch_*.safetensors"))) == training.lineage
    assert training.lineage.trained and training.lineage.chosen
