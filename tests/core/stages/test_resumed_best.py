"""Resuming keeps the best epoch so far, in every family: its checkpoint is brought along, or another is chosen, and that is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from core.stages.clip import train as clip
from core.stages.discovery import train as discovery
from core.stages.longtail import train as longtail
from core.stages.posts import materials, optimize
from core.training import state as states
from tests.core.stages import tiny
from tests.core.stages.clip import tiny_clip
from tests.core.stages.longtail import tiny as tiny_longtail
from tests.core.stages.posts import tiny_posts
from tests.core.stages.tiny import refused
from tests.memory_run import MemoryRun

# Of the epochs finished before resuming, 2 is the best and 1 is better than 3; what follows is worse than all.
SCORES = {0: 0.1, 1: 0.7, 2: 0.9, 3: 0.5, 4: 0.3}


@dataclass
class Family:
    """A family's tiny training: its class, what makes one that has not begun, and the option that resumes."""

    kind: type
    start: Callable[..., Any]
    option: str
    every: str

    def fitted(self, **options: Any) -> Any:
        """Return a training after its last epoch, not published."""
        training = self.start(**options)
        training.fit()
        return training


def discovery_family(place: Path, patch: Any) -> Family:
    made = tiny.Workplace(place, patch, tiny.make_images(place / "glyphs"))
    return Family(discovery.Training, lambda **o: discovery.Training(made.config(**o), made.run()), "resume_from_ckpt", "save_ckpt_every")


def longtail_family(place: Path, patch: Any) -> Family:
    made = tiny_longtail.Workplace(place, patch, tiny_longtail.make_images(place / "glyphs"))
    return Family(longtail.LongtailTraining, made.training, "resume", "save_freq")


def clip_family(place: Path, patch: Any) -> Family:
    made = tiny_clip.Workplace(place, patch, tiny_clip.make_images(place / "glyphs"))
    return Family(clip.ClipTraining, made.training, "resume", "save_freq")


def posts_family(place: Path, patch: Any) -> Family:
    patch.setenv("TAXON_CACHE", str(place / "cache"))
    patch.setattr("core.stages.inputs.draw_curves", lambda *_: None)
    root, runs = tiny_posts.write(place / "posts"), iter(range(99))

    def start(**options: Any) -> optimize.PostsTraining:
        made = tiny_posts.config(root, **options)
        rows = materials.load_rows(made)
        return optimize.PostsTraining(made, rows, MemoryRun(place / f"run{next(runs)}"), optimize.key_of(made, rows))

    return Family(optimize.PostsTraining, start, "resume", "save_freq")


FAMILIES = {"discovery": discovery_family, "longtail": longtail_family, "clip": clip_family, "posts": posts_family}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """Return a family, and the checkpoints of a training of 3 epochs (all kept) whose second is the best."""
    place = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        found = FAMILIES[request.param](place, patch)
        patch.setattr(found.kind, "score", lambda self, metrics, epoch: SCORES[epoch])
        patch.setattr("core.plots.figure.save", lambda _figure, path: path.write_bytes(b""))
        first = found.fitted(epochs=3, **{found.every: 1})
        shutil.copytree(first.work / "checkpoints", place / "kept")
        yield found, place / "kept"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Let no two tests share a work folder."""
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))


def beside(kept: Path, place: Path, epochs: tuple[int, ...], index: bool = True) -> Path:
    """Return the checkpoint of epoch 3 in a folder that has those of `epochs` beside it, and perhaps the index."""
    place.mkdir()
    for epoch in (*epochs, 3):
        shutil.copy(kept / states.checkpoint_name(epoch), place)
    if index:
        shutil.copy(kept / states.INDEX, place)
    return place / states.checkpoint_name(3)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return states.load_checkpoint(path).model


def resumed(family: Family, checkpoint: Path, **options: Any) -> Any:
    return family.fitted(epochs=4, **{family.option: str(checkpoint)} | options)


@pytest.mark.parametrize("index", [True, False])
def test_the_best_epoch_is_brought_along_and_its_weights_are_what_is_published(family, tmp_path, capsys, index):
    """With the index of the folder it is verified; files that were copied by hand have none."""
    found, kept = family
    training = resumed(found, beside(kept, tmp_path / "a", (1, 2), index))
    assert training.history[-1][0] == 4 and training.facts["best"] == {"epoch": 2, "score": 0.9}
    summary = training.summarise()
    assert summary["best_checkpoint"] == "checkpoints/epoch_0002.safetensors"
    assert (training.work / summary["best_checkpoint"]).read_bytes() == (kept / "epoch_0002.safetensors").read_bytes()
    assert states.is_vouched(training.work / "checkpoints", 2) and "takes its place" not in capsys.readouterr().err


@pytest.mark.parametrize(("there", "instead"), [((), 3), ((1,), 1)])
def test_without_its_checkpoint_the_best_of_those_that_exist_takes_its_place_and_that_is_said(family, tmp_path, capsys, there, instead):
    found, kept = family
    training = resumed(found, beside(kept, tmp_path / "a", there))
    assert training.facts["best"] == {"epoch": instead, "score": SCORES[instead]}
    assert states.is_vouched(training.work / "checkpoints", instead)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "takes its place" in line]
    assert "epoch 2, the best one so far (0.9)" in line and f"epoch {instead} ({SCORES[instead]})" in line


@pytest.mark.parametrize("what", ["cut short", "of another training"])
def test_a_file_that_is_not_the_best_epoch_of_this_training_is_not_taken_for_it(family, tmp_path, what):
    found, kept = family
    checkpoint = beside(kept, tmp_path / "a", (2,), index=what == "cut short")
    path = checkpoint.with_name("epoch_0002.safetensors")
    if what == "cut short":
        path.write_bytes(path.read_bytes()[:-8])
    else:
        state = states.load_checkpoint(path)
        state.history[-1][1]["lr"] = 77.0
        path.write_bytes(states.to_bytes(state))
    assert resumed(found, checkpoint).facts["best"]["epoch"] == 3


def test_a_restart_after_a_kill_right_after_resuming_goes_on_from_the_same_epoch_with_the_same_best(family, tmp_path):
    found, kept = family
    checkpoint = beside(kept, tmp_path / "a", (1, 2))
    options = {"epochs": 4, found.option: str(checkpoint)}
    began = found.start(**options)
    (began.work / "checkpoints" / "epoch_0002.safetensors").unlink()  # killed between the two copies
    again = found.start(**options)
    assert (again.epoch, again.facts["best"]["epoch"]) == (3, 2) and states.is_vouched(again.work / "checkpoints", 2)


def test_nothing_left_to_train_publishes_the_best_epoch(family, tmp_path):
    found, kept = family
    training = found.fitted(epochs=3, **{found.option: str(beside(kept, tmp_path / "a", (2,)))})
    summary = training.summarise()
    assert (summary["epoch"], summary["best"]["epoch"]) == (3, 2)
    for name in ("checkpoint", "best_checkpoint"):
        assert (training.work / summary[name]).is_file()


def test_the_accuracy_on_training_batches_is_a_metric_of_every_epoch(family):
    _found, kept = family
    history = states.load_checkpoint(kept / "epoch_0003.safetensors").history
    shares = [metrics["train/accuracy"] for epoch, metrics in history if epoch]
    assert len(shares) == 3 and all(0 <= share <= 1 for share in shares) and max(shares) > 0


def test_the_published_model_is_that_of_the_best_epoch(tmp_path, monkeypatch):
    """Long tail, the schedule moved by the longer training: the best epoch is rebuilt as it was trained."""
    monkeypatch.setattr("core.plots.figure.save", lambda _figure, path: path.write_bytes(b""))
    found = longtail_family(tmp_path, monkeypatch)
    scores = {1: 0.2, 2: 0.9, 3: 0.1, 4: 0.1}
    monkeypatch.setattr(found.kind, "score", lambda self, metrics, epoch: scores[epoch])
    options = {"schedule_epochs": 6, "center_update_epoch": 2, "use_cosine_classifier": True, "progressive_resize_epoch": 2}
    first = found.fitted(epochs=3, save_freq=1, **options)
    expected = first.history[1][1]["val/nll"]
    kept = shutil.copytree(first.work / "checkpoints", tmp_path / "kept")
    longer = found.fitted(epochs=4, resume=str(kept / "epoch_0003.safetensors"), **options | {"schedule_epochs": 8})
    summary = longer.publish()
    assert summary["best_metrics"]["best_epoch"] == 2 and summary["best_metrics"]["best/val/nll"] == pytest.approx(expected, rel=1e-6)


def test_a_damaged_checkpoint_is_refused(tmp_path, monkeypatch):
    found = longtail_family(tmp_path, monkeypatch)
    first = found.fitted(epochs=2)
    path = first.work / "checkpoints" / "epoch_0002.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    assert "damaged" in refused(lambda: found.start(epochs=3, resume=str(path)))
