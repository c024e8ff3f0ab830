"""Class-sentence and post models are promoted as the others are: on the answers to their own validation part."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
from mlflow import MlflowClient

from core.errors import UserError
from core.stages import promote
from core.stages.clip import train as clip_train
from core.stages.clip.config import TrainClipConfig
from core.stages.posts import optimize
from core.stages.promote_config import PromoteConfig
from core.tracking import ask, served, versions
from core.tracking import run as tracking
from tests.core.conftest import store_template  # noqa: F401  (fixture)
from tests.core.stages.clip import tiny_clip
from tests.core.stages.posts import tiny_posts

pytestmark = pytest.mark.slow


def train_posts(folder: Path, data: Path, **options: Any) -> None:
    config = tiny_posts.config(data, register=True, head_lr=0.01, **options)
    with tracking.open_run("optimize_clip", "tiny posts") as run:
        optimize.train(config, run)


def train_clip(folder: Path, data: Path, **options: Any) -> None:
    given = {"data_dir": str(data), "class_texts_file": str(folder / "texts.json"), "val_fraction": 0.4, "register": True}
    with tracking.open_run("train_clip", "tiny clip") as run:
        clip_train.train(TrainClipConfig(**tiny_clip.TINY | given | options), run)


def make_clip(data: Path) -> None:
    tiny_clip.make_images(data)
    tiny_clip.write_sentences(data.parent / "texts.json")


@dataclasses.dataclass(frozen=True)
class Family:
    """How a family's tiny data are made and trained on.

    Attributes:
        named: options of promote that mean its model. place: the option that says where its data lie.
        swapped: options of a training on the validation part of the others.
    """

    make: Callable[[Path], Any]
    train: Callable[..., None]
    metric: str
    items: int
    named: dict[str, str]
    place: str
    swapped: Callable[[Path], dict[str, Any]]


FAMILIES = {
    "posts": Family(
        tiny_posts.write,
        train_posts,
        "macro_f1",
        12,
        {"family": "posts"},
        "data_dir",
        lambda data: {"train_csv": str(data / "val.csv"), "val_csv": str(data / "train.csv"), "test_csv": str(data / "test.csv")},
    ),
    "clip": Family(
        make_clip, train_clip, "balanced_accuracy", 0, {"family": "clip", "data": "data"}, "data_dir", lambda data: {"random_state": 7}
    ),
}


def in_process(folder: Path, rows: Any, what: str) -> list[dict[str, Any]]:
    """Answer with the stored weights and this process's code."""
    (data,) = (folder / "data").iterdir()
    facts = json.loads((data / served.FACTS).read_text())
    return importlib.import_module(facts["module"])._load_pyfunc(str(data)).predict(pandas.DataFrame(list(rows)))


@dataclasses.dataclass
class Desk:
    """A store of a family's versions: 1 is hardly trained, 2 is, 3 was trained on others' validation items."""

    family: Family
    folder: Path
    client: MlflowClient
    name: str

    def promote(self, **options: Any) -> dict[str, Any]:
        with tracking.open_run("promote", "promote") as run:
            return promote.run(PromoteConfig(**self.family.named | options), run)


@pytest.fixture(scope="module", params=FAMILIES)
def desk(request, tmp_path_factory, store_template):  # noqa: F811
    folder, family = tmp_path_factory.mktemp(request.param), FAMILIES[request.param]
    shutil.copy(store_template, folder / "mlflow.db")
    family.make(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("TAXON_CACHE", str(folder / "cache"))
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        patch.setattr(ask, "answers", in_process)
        client = MlflowClient()
        client.create_experiment("taxon", artifact_location=f"file://{folder}/artifacts")
        for options in ({"epochs": 1}, {"epochs": 4, "seed": 2}, {"epochs": 1} | family.swapped(folder / "data")):
            family.train(folder, folder / "data", **options)
        (model,) = client.search_registered_models()
        yield Desk(family, folder, client, model.name)


def test_what_was_recorded_is_what_the_served_model_scores(desk):
    for number in ("1", "2"):
        found = desk.promote(candidate=number, part="val", dry_run=True)
        recorded = versions.find(desk.client, desk.name, number).score(desk.family.metric)
        assert found["metric"] == desk.family.metric and found["of_candidate"]["value"] == pytest.approx(recorded, abs=1e-9)
        assert found["of_candidate"]["low"] <= found["of_candidate"]["value"] <= found["of_candidate"]["high"]
        assert found["items"] == desk.family.items or not desk.family.items


def test_the_better_version_becomes_champion_with_an_interval_of_its_gain(desk):
    assert desk.promote(candidate="1", part="val")["promoted"]
    found = desk.promote(candidate="2", part="val", rule="point")
    scores = [versions.find(desk.client, desk.name, number).score(desk.family.metric) for number in ("1", "2")]
    assert found["champion"] == f"models:/{desk.name}/1" and found["gain"]["value"] == pytest.approx(scores[1] - scores[0], abs=1e-9)
    assert found["gain"]["low"] <= found["gain"]["value"] <= found["gain"]["high"] and found["promoted"] == (scores[1] > scores[0])


def test_the_test_part_decides_where_there_is_one(desk):
    found = desk.promote(candidate="2", dry_run=True)
    assert found["part"] == "test" and found["items"] > 0 and not found["notices"]
    assert found["rule"] == "interval" and found["looked_at"] >= 1


def test_other_data_and_a_champion_that_trained_on_the_items_are_refused(desk, tmp_path):
    changed = shutil.copytree(desk.folder / "data", tmp_path / "data")
    pictures = sorted(path for path in changed.rglob("*.png"))
    for path in pictures:
        os.replace(path, path.with_suffix(".old"))
    for path, other in zip(pictures, pictures[-1:] + pictures[:-1], strict=True):
        shutil.copyfile(other.with_suffix(".old"), path)
    moved = f"{desk.family.place}={changed}" + (f",data_root={changed}" if desk.family.named["family"] == "posts" else "")
    with pytest.raises(UserError, match="are not those of version 2 of"):
        desk.promote(candidate="2", part="val", data_options=moved)
    with contextlib.suppress(Exception):
        desk.client.delete_registered_model_alias(desk.name, "champion")
    desk.client.set_registered_model_alias(desk.name, "champion", "3")
    with pytest.raises(UserError, match="which has trained on"):
        desk.promote(candidate="2", part="val")
