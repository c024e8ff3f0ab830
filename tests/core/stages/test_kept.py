"""What stays of checkpoints when a training has ended: weights are as before, keys too, and what is needed again is trained again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from core import digest
from core.stages.discovery import pipeline
from core.stages.discovery.config import PipelineConfig
from core.tracking import run as tracking
from core.tracking import stage as stages
from core.training import state as states
from tests.core.conftest import store_template  # noqa: F401  (fixture)
from tests.core.stages import tiny
from tests.core.stages.discovery.short import OPTIONS, store_in
from tests.core.stages.test_registered_figures import InProcess

pytestmark = pytest.mark.slow


class Kept:
    """A store with tiny images, and pipelines of a warm-up and two trainings on them: 0-2, 2-3, 3-4."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lightened: list[states.TrainState] = []  # as they were before
        tiny.make_images(folder / "images")

    def discover(self, name: str, **options: Any) -> str:
        """Run a pipeline; return its run's id."""
        own = {"novel_classes": "ring", "labels_per_class": 6, "stage1_epochs": 2, "update_interval": 1, "total_epochs": 4}
        config = PipelineConfig(**OPTIONS | own | {"data_root": str(self.folder / "images"), "compare_without": False} | options)
        with tracking.open_run("pseudo_pipeline", name) as run:
            pipeline.run(config, run)
        return run.run_id

    def trainings(self) -> dict[str, list[stages.Finished]]:
        """Return the finished trainings by name, the newest of a name first."""
        found: dict[str, list[stages.Finished]] = {}
        for run in MlflowClient().search_runs(["1"], "tags.`taxon.entry_point` = 'train_superclass'"):
            found.setdefault(run.info.run_name, []).append(stages.load_finished(run.info.run_id))
        return found


@pytest.fixture(scope="module")
def kept(store_template, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        store_in(folder, store_template, patch)
        patch.setenv("TAXON_CACHE", str(folder / "cache"))
        patch.setattr(pipeline, "server_of_stages", lambda: InProcess())
        made = Kept(folder)
        real = pipeline.kept.lighten
        with pytest.MonkeyPatch.context() as watch:
            watch.setattr(
                pipeline.kept, "lighten", lambda one, every: (made.lightened.append(states.load_checkpoint(last(one))), real(one, every))
            )
            made.discover("first")
        yield made


def last(finished: stages.Finished) -> Path:
    return finished.folder / finished.summary["checkpoint"]


def test_a_pipeline_keeps_what_others_start_from_and_trains_the_rest_again_when_it_is_needed(kept, capsys):
    made = {name: runs[0] for name, runs in kept.trainings().items()}
    assert list(made) == ["train 3-4", "train 2-3", "train 0-2"] and None not in made.values()
    light = {name: bool(states.load_checkpoint(last(one)).content) for name, one in made.items()}
    assert light == {"train 3-4": False, "train 2-3": True, "train 0-2": False}
    [whole], now = kept.lightened, states.load_checkpoint(last(made["train 2-3"]))
    assert now.model.keys() == whole.model.keys() and all(torch.equal(now.model[name], whole.model[name]) for name in now.model)
    assert whole.optimizer["state"] and not now.optimizer["state"] and states.content_digest(now) == states.content_digest(whole)
    assert last(made["train 2-3"]).stat().st_size < 0.6 * len(states.to_bytes(whole))
    # The same again: everything is found. Without its last training, that alone is missing, and what it goes on from.
    capsys.readouterr()
    kept.discover("second")
    assert capsys.readouterr().err.count(" reused ") == 5
    MlflowClient().delete_run(made["train 3-4"].run_id)
    kept.discover("third")
    said = capsys.readouterr().err
    assert "of 'train 2-3' only the weights are left (keep_checkpoints=needed): it is trained again" in said
    again = {name: runs[0] for name, runs in kept.trainings().items()}
    assert again["train 0-2"].run_id == made["train 0-2"].run_id
    assert again["train 3-4"].run_id != made["train 3-4"].run_id
    assert again["train 3-4"].summary["weights_digest"] == made["train 3-4"].summary["weights_digest"]


def test_what_comes_out_differently_the_second_time_is_said(kept, monkeypatch):
    made = {name: runs[0] for name, runs in kept.trainings().items()}
    MlflowClient().delete_run(made["train 3-4"].run_id)
    nondeterministic = SimpleNamespace(load_checkpoint=states.load_checkpoint, content_digest=lambda state: "another")
    monkeypatch.setattr(pipeline, "states", nondeterministic)
    said = tiny.refused(lambda: kept.discover("on another device"))
    assert f"'train 2-3' was trained again, with another result than run {made['train 2-3'].run_id}; run the same command again" in said


def kept_of(kept: Kept, names: tuple[str, ...]) -> list[str]:
    """Return what is kept of the newest trainings of these names."""
    return [tiny.kept_in(kept.trainings()[name][0].folder) for name in names]


def test_all_keeps_every_checkpoint_whole(kept):
    kept.discover("all", seed=6, keep_checkpoints="all", select_by="score")
    found = kept_of(kept, ("train 0-2", "train 2-3", "train 3-4"))
    assert all(found) and all(one.endswith("*") for all_of in found for one in all_of.split())


def test_what_is_kept_every_so_many_epochs_is_whole_in_the_middle_too(kept):
    kept.discover("every", seed=7, update_interval=2, total_epochs=5, save_ckpt_every=3)
    assert kept_of(kept, ("train 0-2", "train 2-4", "train 4-5")) == ["2*", "3* 4", "5*"]


def test_the_best_epoch_s_checkpoint_is_light_and_nothing_trains_on_from_it(kept, monkeypatch):
    scores = {0: 0.0, 1: 0.9, 2: 0.5, 3: 0.4}
    monkeypatch.setattr("core.stages.discovery.train.Training.score", lambda self, metrics, epoch: scores[epoch])
    place = tiny.Workplace(kept.folder / "alone", monkeypatch, kept.folder / "images")
    (kept.folder / "alone").mkdir()
    summary, run = place.publish(epochs=2)
    folder = run.place / "checkpoints"
    assert summary["best"]["epoch"] == 1 and set(states.read_index(folder)) == {"epoch_0001.safetensors", "epoch_0002.safetensors"}
    assert states.load_checkpoint(folder / "epoch_0001.safetensors").content
    assert states.newest_valid(folder, whole=True)[1].epoch == 2 and not states.load_checkpoint(run.place / summary["checkpoint"]).content
    manifest = json.loads((run.place / stages.MANIFEST).read_text())["files"]
    assert all(digest.is_vouched(run.place / name, entry) for name, entry in manifest.items())
    said = tiny.refused(lambda: place.publish(epochs=3, resume_from_ckpt=str(folder / "epoch_0001.safetensors")))
    assert "the checkpoint of epoch 1 holds its weights only; give the last one of that training" in said
    more, run = place.publish(epochs=3, resume_from_ckpt=str(folder / "epoch_0002.safetensors"))
    assert more["best"]["epoch"] == 1 and states.load_checkpoint(run.place / more["best_checkpoint"]).content
