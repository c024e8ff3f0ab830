"""A long-tail checkpoint knows its images: neither evaluation nor a training that holds them out takes it."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file

from core.errors import UserError
from core.lineage import Lineage, flat, read
from core.stages import held_out
from core.stages.longtail import evaluate, train
from core.stages.longtail.config import LongtailEvaluateConfig
from tests.core.stages.longtail import tiny
from tests.memory_run import MemoryRun


@pytest.fixture(scope="module")
def trained(tmp_path_factory, longtail_images):
    """Return (a published tiny training's checkpoint, the items of its parts)."""
    with pytest.MonkeyPatch.context() as patch:
        place = tiny.Workplace(tmp_path_factory.mktemp("trained"), patch, longtail_images)
        _summary, run = place.publish(epochs=1)
        return next((run.place / "checkpoints").glob("epoch_*.safetensors")), held_out.parts_of(place.training(epochs=1).m.data)


def test_a_checkpoint_names_its_images_and_those_that_chose_it(trained):
    path, parts = trained
    assert read(path) == Lineage(flat(parts.train), chosen=flat(parts.val))


@pytest.mark.parametrize("renamed", [False, True])
def test_images_that_were_trained_on_are_no_test_part(trained, place, tmp_path, longtail_images, renamed, capsys, monkeypatch):
    path, parts = trained
    folder = longtail_images / "train"
    if renamed:
        shutil.copytree(folder, tmp_path / "other")
        for image in list((tmp_path / "other").rglob("*.png")):
            image.rename(image.with_name(f"new_{image.name}"))
        folder = tmp_path / "other"
    monkeypatch.setattr("core.plots.figure.save", lambda *_: pytest.fail("evaluated"))
    at = shutil.copyfile(path, tmp_path / "copied.safetensors")
    common = {"checkpoint": str(at), "gpu": "cpu", "threads": 1, "num_workers": 1, "use_amp": False}
    n = len(parts.train)
    with pytest.raises(UserError, match=rf"checkpoint = '.*copied\.safetensors' has learnt from {n} of the {n} test images"):
        evaluate.run(LongtailEvaluateConfig(test_dir=str(folder), part="test", **common), MemoryRun(tmp_path))
    assert capsys.readouterr().out == ""


def test_weights_that_know_the_validation_part_do_not_start_a_training(trained, place, tmp_path):
    _path, parts = trained
    record = Lineage(trained=flat(parts.val[:3]))
    save_file({"w": torch.ones(1)}, tmp_path / "w.safetensors", record.metadata())
    config = place.config(pretrained=True, weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(UserError, match=rf"weights = '.*w\.safetensors' has learnt from 3 of the {len(parts.val)} validation images"):
        train.LongtailTraining(train.prepare(config), place.run())
