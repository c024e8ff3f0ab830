"""A finished training is never lost to what comes after it: tables, pictures, registration, note; the same command does what is left."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from core.clustering import grid
from core.errors import UserError
from core.stages.clip import run as clip
from core.stages.clip.config import TrainClipConfig
from core.stages.discovery import pipeline, ssddbc
from core.stages.discovery import train as discovery
from core.stages.discovery.config import PipelineConfig, SsddbcConfig, TrainConfig
from core.stages.longtail import train as longtail
from core.stages.posts import optimize
from core.stages.posts import pipeline_report as posts_report
from core.tracking import registry, stage
from core.tracking import run as tracking
from core.tracking import versions as tracked
from core.tracking.recorder import Recorder
from core.tracking.uri import local_artifacts
from core.training import loop
from tests.core.stages import tiny
from tests.core.stages.clip import tiny_clip
from tests.core.stages.clip.conftest import clip_images, folded  # noqa: F401  (fixtures)
from tests.core.stages.longtail import tiny as tiny_longtail
from tests.core.stages.posts import tiny_posts
from tests.core.stages.test_registered_figures import InProcess

FAULTS = {
    "registration": "core.tracking.registry.register",
    "pictures": "core.plots.figure.save",
    "note": "core.tracking.run.Run.note",
}


@dataclasses.dataclass(frozen=True)
class Family:
    """A family's tiny command.

    Attributes:
        entry_point: its name.
        work: `work(folder, run, options)` runs it on tiny data in `folder` and returns the summary.
        make: makes the data.
        figure: a metric of what is registered.
        registered: the same as it is shown beside the model.
        files: some of those that come after.
        faults: what fails by itself, where it is not what FAULTS say.
        noted: what the description says, in this order, where it does not name the model.
    """

    entry_point: str
    work: Callable[..., dict[str, Any]]
    make: Callable[[Path], Any]
    figure: str
    registered: str = ""
    files: tuple[str, ...] = ("evaluation/val/confusion.png", "evaluation/val/predictions.csv", "plots/curves.png")
    faults: dict[str, str] = dataclasses.field(default_factory=dict)
    noted: tuple[str, ...] = ()


def longtail_command(folder: Path, run: Recorder, **options: Any) -> dict[str, Any]:
    return longtail.run(tiny_longtail.config(folder / "images", **{"epochs": 1, "register": True} | options), run)


def clip_command(folder: Path, run: Recorder, **options: Any) -> dict[str, Any]:
    given = {"data_dir": str(folder / "images"), "class_texts_file": str(folder / "texts.json"), "val_fraction": 0.4, "test_fraction": 0.2}
    return clip.run(TrainClipConfig(**tiny_clip.TINY | given | {"epochs": 1, "register": True} | options), run)


def posts_command(folder: Path, run: Recorder, **options: Any) -> dict[str, Any]:
    return optimize.run(tiny_posts.config(folder / "posts", **{"epochs": 1, "register": True} | options), run)


def tfidf_command(folder: Path, run: Recorder, **options: Any) -> dict[str, Any]:
    return posts_command(folder, run, encoder="tfidf", min_count=1, **options)


def discovery_command(folder: Path, run: Recorder, **options: Any) -> dict[str, Any]:
    given = {f.name: getattr(tiny.config(folder / "images"), f.name) for f in dataclasses.fields(TrainConfig)}
    given = {name: value for name, value in given.items() if name in {f.name for f in dataclasses.fields(PipelineConfig)}}
    grid = {"k_min": 3, "k_max": 3, "density_min": 40, "density_max": 50, "density_step": 10, "max_workers": 1, "compare_without": False}
    short = {"stage1_epochs": 1, "update_interval": 1, "total_epochs": 2, "register": True}
    return pipeline.run(PipelineConfig(**given | grid | short | options), run)


def make_clip(folder: Path) -> None:
    tiny_clip.make_images(folder / "images")
    tiny_clip.write_sentences(folder / "texts.json")


FAMILIES = {
    "longtail": Family(
        "train_longtail", longtail_command, lambda folder: tiny_longtail.make_images(folder / "images"), "best/val/balanced_accuracy"
    ),
    "clip": Family("train_clip", clip_command, make_clip, "best/val/balanced_accuracy"),
    "posts": Family("optimize_clip", posts_command, lambda folder: tiny_posts.write(folder / "posts"), "best/val/macro_f1"),
    "n-grams": Family(
        "optimize_clip",
        tfidf_command,
        lambda folder: tiny_posts.write(folder / "posts"),
        "best/val/macro_f1",
        files=("evaluation/val/confusion.png", "evaluation/val/predictions.csv"),
    ),
    "discovery": Family(
        "pseudo_pipeline",
        discovery_command,
        lambda folder: tiny.make_images(folder / "images"),
        "best/test/v2_all",
        "registered/test/v2_all",
        ("plots/gallery.png", "plots/confusion.png", "plots/curves.png"),
        {"pictures": "core.plots.gallery.gallery", "note": "core.stages.discovery.pipeline_report.markdown"},
        ("frozen features", "before pseudo labels", "after pseudo labels", "selected model"),
    ),
}


SLOW = ("n-grams", "discovery")


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in FAMILIES])
def family(request) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def place(client, family, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("core.plots.figure.save", lambda _figure, path: (path.parent.mkdir(parents=True, exist_ok=True), path.touch()))
    monkeypatch.setattr(pipeline, "StageServer", InProcess)
    family.make(tmp_path)
    return tmp_path


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended: its run as the store has it, its summary, and the line of its error."""

    run: Any
    summary: dict[str, Any]
    error: str

    @property
    def tags(self) -> dict[str, str]:
        return self.run.data.tags


def command(family: Family, place: Path, **options: Any) -> Ended:
    """Run a family's command as its entry point does."""
    summary, error = {}, ""
    try:
        with tracking.open_run(family.entry_point, "tiny") as run:
            summary = family.work(place, run, **options)
    except UserError as refused:
        error = str(refused)
    return Ended(MlflowClient().get_run(run.run_id), summary, error)


def fresh(ended: Ended) -> Ended:
    """Return the run as the store has it now."""
    return dataclasses.replace(ended, run=MlflowClient().get_run(ended.run.info.run_id))


def fails(_self: Any = None, *_args: Any, **_options: Any) -> None:
    raise ValueError("it is\nbroken $5_to_$10")


def trains_nothing(patch: Any) -> None:
    patch.setattr(loop, "_run_epoch", lambda *_: pytest.fail("an epoch was trained"))


def versions() -> list[Any]:
    return list(MlflowClient().search_model_versions())


def is_unfinished(ended: Ended, family: Family, name: str) -> bool:
    """Say whether a run has all of the training, and says what is left and why."""
    assert ended.run.info.status == "FAILED" and ended.tags[stage.UNFINISHED_TAG] == name
    reason = f"{name}: ValueError: it is broken $5_to_$10"
    assert all(reason in said for said in (ended.error, ended.tags[MLFLOW_RUN_NOTE], ended.tags["taxon.reason"]))
    assert "\n" not in ended.error and "run the same command again" in ended.error
    files = stage.load_finished(ended.run.info.run_id)
    kept = (files.summary.get(name, "") for name in ("checkpoint", "best_checkpoint", "predictor"))
    assert all((files.folder / name).exists() for name in kept if not name.startswith("runs:/"))  # of a pipeline: its stages have them
    traceback = local_artifacts(ended.run.info.artifact_uri) / "unfinished" / f"{name}.txt"
    return family.figure in ended.run.data.metrics and "Traceback" in traceback.read_text()


@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_after_a_training_is_said_and_the_same_command_does_only_that(family, place, monkeypatch, fault):
    with monkeypatch.context() as patch:
        patch.setattr(family.faults.get(fault, FAULTS[fault]), fails)
        first = command(family, place)
    assert is_unfinished(first, family, fault)
    assert len(versions()) == (0 if fault == "registration" else 1)
    trains_nothing(monkeypatch)
    second = command(family, place)
    first = fresh(first)
    for ended in (first, second):
        assert ended.run.info.status == "FINISHED" and stage.UNFINISHED_TAG not in ended.tags and "taxon.reason" not in ended.tags
        noted = [ended.tags[MLFLOW_RUN_NOTE].rfind(said) for said in family.noted or (second.summary["model"],)]
        assert "Unfinished" not in ended.tags[MLFLOW_RUN_NOTE] and -1 not in noted and noted == sorted(noted)
        assert stage.load_finished(ended.run.info.run_id).summary == second.summary
        assert set(family.files) <= set(stage.load_finished(ended.run.info.run_id).manifest)
    (version,) = versions()
    assert version.run_id == first.run.info.run_id
    assert MlflowClient().get_model_version_by_alias(version.name, "challenger").version == version.version
    assert second.tags["taxon.continues"] == first.run.info.run_id
    assert second.run.data.metrics[family.figure] == first.run.data.metrics[family.figure]
    if family.entry_point == "pseudo_pipeline":
        assert any(name.startswith("heatmaps/epoch_0001/") for name in stage.load_finished(second.run.info.run_id).manifest)
    shown = family.registered or f"registered/{family.figure}"
    assert first.run.data.metrics[shown] == first.run.data.metrics[family.figure]
    assert not list((place / "cache" / "work").iterdir())


@pytest.fixture
def longtail_place(client, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("core.plots.figure.save", lambda _figure, path: (path.parent.mkdir(parents=True, exist_ok=True), path.touch()))
    FAMILIES["longtail"].make(tmp_path)
    return tmp_path


def interrupted(place: Path, patch: Any) -> None:
    """Be interrupted by Ctrl-C while the model is registered."""

    def interrupt(*_args: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    patch.setattr(registry, "register", interrupt)
    with pytest.raises(KeyboardInterrupt):
        command(FAMILIES["longtail"], place)


def killed(place: Path, patch: Any) -> None:
    """Be killed after the model's version is made, before the run is told of it."""
    patch.setattr(registry, "_described", lambda *_: os._exit(9))
    child = os.fork()
    if child == 0:
        try:
            command(FAMILIES["longtail"], place)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("stop", [interrupted, killed])
def test_a_stop_between_publishing_and_registering_costs_no_training_even_without_the_work_folder(longtail_place, monkeypatch, stop):
    with monkeypatch.context() as patch:
        stop(longtail_place, patch)
    for folder in (longtail_place / "cache" / "work").iterdir():
        shutil.rmtree(folder)
    trains_nothing(monkeypatch)
    second = command(FAMILIES["longtail"], longtail_place)
    (version,) = versions()
    first = MlflowClient().get_run(second.tags["taxon.continues"])
    assert [run.info.status for run in (first, second.run)] == ["FINISHED", "FINISHED"] and version.run_id == first.info.run_id
    assert second.summary["model"] == f"models:/{version.name}/{version.version}"
    assert MlflowClient().get_model_version_by_alias(version.name, "challenger").version == version.version


def test_what_still_fails_is_said_again_and_what_was_done_is_not_done_twice(longtail_place, monkeypatch):
    family = FAMILIES["longtail"]
    with monkeypatch.context() as patch:
        patch.setattr("core.plots.figure.save", fails)
        first = command(family, longtail_place)
        trains_nothing(patch)
        again = command(family, longtail_place)
    first = fresh(first)
    assert is_unfinished(first, family, "pictures") and len(versions()) == 1
    assert again.run.info.status == "FAILED" and again.error == first.tags["taxon.reason"] and stage.UNFINISHED_TAG not in again.tags
    trains_nothing(monkeypatch)
    monkeypatch.setattr(registry, "register", lambda *_, **__: pytest.fail("registered twice"))
    (version,) = versions()
    assert command(family, longtail_place).summary["model"] == f"models:/{version.name}/{version.version}"


def test_only_models_of_finished_runs_are_candidates(longtail_place, monkeypatch):
    family = FAMILIES["longtail"]
    with monkeypatch.context() as patch:
        patch.setattr("core.plots.figure.save", fails)
        command(family, longtail_place)
    (version,) = map(tracked._version, versions())
    assert not tracked.finished(MlflowClient(), version)
    command(family, longtail_place)
    assert tracked.finished(MlflowClient(), version)


def test_folds_that_could_not_be_drawn_are_not_trained_again(client, folded, monkeypatch):  # noqa: F811
    with monkeypatch.context() as patch:
        patch.setattr("core.plots.figure.save", fails)
        with pytest.raises(UserError, match="pictures: ValueError"):
            folded()
    trained, run_epoch = [], loop._run_epoch
    monkeypatch.setattr(loop, "_run_epoch", lambda *args: (trained.append(args), run_epoch(*args)))
    summary, _parent = folded()
    assert len(trained) == 1 and len(summary["folds"]) == 2  # of the second fold; the first was drawn only


def test_a_training_of_a_superclass_whose_curves_fail_is_finished_without_training(client, images, monkeypatch):
    config = tiny.config(images, epochs=1)
    family = Family("train_superclass", lambda _place, run: discovery.run(config, run), lambda _folder: None, "test/v2_all")
    with monkeypatch.context() as patch:
        patch.setattr("core.plots.figure.save", fails)
        first = command(family, Path())
    assert is_unfinished(first, family, "pictures")
    trains_nothing(monkeypatch)
    second = command(family, Path())
    assert second.run.info.status == fresh(first).run.info.status == "FINISHED"
    assert "plots/curves.png" in stage.load_finished(second.run.info.run_id).manifest
    assert "Unfinished" not in second.tags[MLFLOW_RUN_NOTE]


def test_a_clustering_whose_heat_maps_fail_is_drawn_without_being_searched_again(client, shared, monkeypatch):
    grid_of = {"k_min": 3, "k_max": 3, "density_min": 40, "density_max": 50, "density_step": 10}
    config = SsddbcConfig(ckpt_path=str(shared[0]), gpu="cpu", **grid_of)
    family = Family("offline_ssddbc_superclass", lambda _place, run: ssddbc.run(config, run), lambda _folder: None, "pseudo/n_clusters")
    with monkeypatch.context() as patch:
        patch.setattr("core.plots.figure.save", fails)
        first = command(family, Path())
    assert is_unfinished(first, family, "pictures")
    monkeypatch.setattr(grid, "search", lambda *_: pytest.fail("the grid was searched"))
    second = command(family, Path())
    assert second.run.info.status == fresh(first).run.info.status == "FINISHED" and second.tags["taxon.continues"] == first.run.info.run_id
    files = stage.load_finished(second.run.info.run_id)
    assert {"heatmaps/all.png", "heatmaps/score.png", second.summary["pseudo_labels"]} <= set(files.manifest)
    assert second.tags[MLFLOW_RUN_NOTE].startswith(f"Epoch 2: {second.summary['metrics']['pseudo/n_clusters']:.0f} clusters, ")


def test_a_posts_pipeline_whose_files_cannot_be_copied_keeps_its_result_and_copies_them_later(client, tmp_path, monkeypatch):
    stages = {}
    for name, path in (("train", "plots/curves.png"), ("predict", "predictions/test_with_label.txt")):
        (tmp_path / name / path).parent.mkdir(parents=True)
        (tmp_path / name / path).write_text(name)
        stages[name] = SimpleNamespace(folder=tmp_path / name)
    config = SimpleNamespace(output_dir=str(tmp_path / "mine"))
    monkeypatch.setattr(posts_report, "summarise", lambda _made: {"epoch": 0, "best_metrics": {"train/test_accuracy": 0.5}})
    monkeypatch.setattr(posts_report, "_say", lambda *_: "what was found")

    def report(_place: Path, run: Recorder) -> dict[str, Any]:
        return posts_report.publish(SimpleNamespace(made=stages, config=config, run_=run, key=lambda: "key"))

    family = Family("posts_pipeline", report, lambda _folder: None, "train/test_accuracy")
    with monkeypatch.context() as patch:
        patch.setattr("core.stages.posts.results.copy_tree", fails)
        first = command(family, tmp_path)
    assert is_unfinished(first, family, "output_dir") and first.tags[MLFLOW_RUN_NOTE].startswith("what was found")
    second = command(family, tmp_path)
    assert fresh(first).run.info.status == second.run.info.status == "FINISHED" and second.tags[MLFLOW_RUN_NOTE] == "what was found"
    for folder in (tmp_path / "mine", stage.load_finished(second.run.info.run_id).folder):
        assert (folder / "plots" / "train_curves.png").read_text() == "train"
        assert (folder / "predictions" / "test_with_label.txt").read_text() == "predict"
