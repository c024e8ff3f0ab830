"""Trainings on folders of one name: models that tell other things apart are never versions of one model, nor compared by `promote`."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from core.stages import held_out, promote
from core.stages.longtail import train
from core.stages.longtail.config import LongtailImages
from core.stages.promote_config import PromoteConfig
from core.tracking import ask
from core.tracking import run as tracking
from tests.core.conftest import client, store_template, tracking_env  # noqa: F401  (fixtures)
from tests.core.stages.longtail import tiny
from tests.core.stages.test_promote_families import in_process

NAME = "taxon-longtail-leaves"


def longtail(images: Path, **options: Any) -> str:
    """Train on a folder; return the model's URI."""
    with tracking.open_run("train_longtail", "tiny") as run:
        return train.train(tiny.config(images, register=True, save_freq=0, **options), run)["model"]


def promoted(name: str, **options: Any) -> dict[str, Any]:
    with tracking.open_run("promote", "promote") as run:
        return promote.run(PromoteConfig(name=name, **options), run)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(ask, "answers", in_process)
    monkeypatch.setattr("core.stages.inputs.draw_curves", lambda *_: None)
    monkeypatch.setattr("core.plots.figure.save", lambda _figure, path: path.write_bytes(b""))


@pytest.mark.slow
def test_folders_of_one_name_with_other_classes_or_images_are_other_models(client, quick, tmp_path):  # noqa: F811
    images = tiny.make_images(tmp_path / "a" / "leaves")
    assert longtail(images, epochs=3) == f"models:/{NAME}/1"
    renamed = shutil.copytree(images, tmp_path / "b" / "leaves")
    for part in renamed.iterdir():
        (part / "dot").rename(part / "point")
    other = longtail(renamed, epochs=1)
    unrelated = longtail(tiny.make_images(tmp_path / "c" / "leaves", seed=9), epochs=1)
    assert other.endswith("/1") and unrelated.endswith("/1") and len({other, unrelated, f"models:/{NAME}/1"}) == 3
    assert all(uri.startswith(f"models:/{NAME}-") for uri in (other, unrelated))
    assert promoted(NAME)["promoted"]
    with pytest.raises(UserError, match="of the model"):
        promoted(NAME, candidate=other)
    with pytest.raises(UserError, match="mean 3 models"), tracking.open_run("promote", "promote") as run:
        promote.run(PromoteConfig(family="longtail", data="leaves"), run)
    tiny.make_images(tmp_path / "more", seed=3)
    shutil.copy(tmp_path / "more" / "train" / "dot" / "00.png", images / "train" / "dot" / "new.png")
    assert longtail(images, epochs=1) == f"models:/{NAME}/2"  # the folder has grown
    found = promoted(NAME, candidate="2")
    assert found["part"] == "test" and found["champion"] == f"models:/{NAME}/1" and not found["promoted"]


def test_images_that_training_holds_too_decide_nothing(tmp_path):
    images = tiny.make_images(tmp_path / "leaves")
    shutil.copy(images / "train" / "bar" / "00.png", images / "test" / "bar" / "again.png")
    shutil.copy(images / "test" / "dot" / "00.png", images / "test" / "dot" / "twice.png")
    options = dataclasses.asdict(LongtailImages(data_root=str(images)))
    found, val = (held_out.load("longtail", options, part) for part in ("test", "val"))
    assert len(found) == sum(tiny.COUNTS["test"]) + 1 and len(val) == sum(tiny.COUNTS["val"])
    assert len(set(found.group_ids.tolist())) == len(found) - 1  # what is there twice is one group
