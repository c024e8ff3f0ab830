"""The figures on a run are those of the model it registers, in every family and whatever chose the epoch; its answers are those scored."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas
import pytest
from mlflow import MlflowClient
from PIL import Image

from core.data.posts import CLASS_NAMES
from core.evaluation.gcd import accuracy
from core.stages import execute
from core.stages.clip import data as clip_data
from core.stages.clip import folds
from core.stages.clip import train as clip_train
from core.stages.clip.config import TrainClipConfig
from core.stages.discovery import materials, pipeline, train
from core.stages.discovery.config import PipelineConfig
from core.stages.longtail import materials as longtail_materials
from core.stages.longtail import train as longtail_train
from core.stages.posts import materials as posts_materials
from core.stages.posts import optimize
from core.tracking import run as tracking
from core.tracking.uri import local_artifacts
from core.training import recipes
from tests.core.conftest import store_template  # noqa: F401  (fixture)
from tests.core.stages import tiny
from tests.core.stages.clip import tiny_clip
from tests.core.stages.longtail import tiny as tiny_longtail
from tests.core.stages.posts import tiny_posts

pytestmark = pytest.mark.slow

UNREACHED = {"save_best_thresh": 9.0}  # no metric is above it: the last epoch stands for the training


@dataclasses.dataclass(frozen=True)
class Asked:
    """Items that a training evaluated: as a served model takes them, and what they are."""

    rows: list[dict[str, str]]
    truth: np.ndarray


def images_of(part: Any, indices: Sequence[int] | None = None) -> Asked:
    chosen = np.arange(len(part)) if indices is None else np.asarray(indices)
    return Asked([{"image": str(part.source.paths[i])} for i in chosen], part.labels[chosen])


class InProcess:
    """A stage server whose stages run in this process, in child runs of their own."""

    def __init__(self, *_stages: Any) -> None:
        """Take what a server takes."""

    def warm_up(self) -> None:
        """Nothing is to be imported."""

    def run(self, request: Any, on_metrics: Callable[[dict[str, float], int], None]) -> str:
        tags = {**request.tags, "taxon.stage_key": request.key}
        with tracking.open_child(request.parent_run_id, request.name, request.stage.name, tags) as run:
            execute.perform(request.stage, request.config, run)
        return run.run_id


def discovery(folder: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Asked], Callable[..., dict[str, float]]]:
    given = {f.name: getattr(tiny.config(folder / "images"), f.name) for f in dataclasses.fields(train.TrainConfig)}
    names = {f.name for f in dataclasses.fields(PipelineConfig)}
    given = {name: value for name, value in given.items() if name in names}
    grid = {"k_min": 3, "k_max": 3, "density_min": 40, "density_max": 50, "density_step": 10, "max_workers": 1, "compare_without": False}
    short = {"stage1_epochs": 2, "update_interval": 1, "total_epochs": 2, "prop_train_labels": 0.7, "val_fraction": 0.3}
    config = PipelineConfig(**given | grid | short | options)
    with tracking.open_run("pseudo_pipeline", "tiny") as run:
        summary = pipeline.Pipeline(recipes.resolve(config), run, (config.total_epochs,)).run()  # unchecked: a warm-up alone costs least
    data, split = materials.load_data(config)
    asked = {"unlabelled": images_of(data.train, split.unlabelled), "test": images_of(data.test)}
    asked["val"] = images_of(data.train, split.validation)

    def scores(part: str, truth: np.ndarray, answers: Sequence[dict[str, Any]]) -> dict[str, float]:
        if part == "val":
            right = [answer["class"] == data.class_names[label] for answer, label in zip(answers, truth, strict=True)]
            return {"best/val/accuracy_old": float(np.mean(right))}
        clusters = np.array([answer["cluster"] for answer in answers])
        return {f"best/{part}/v2_all": accuracy(truth, clusters, data.known_classes, "v2").all}

    return {"run": run.run_id} | summary, asked, scores


def classified(class_names: Sequence[str]) -> Callable[..., dict[str, float]]:
    def scores(part: str, truth: np.ndarray, answers: Sequence[dict[str, Any]]) -> dict[str, float]:
        right = [answer["class"] == class_names[label] for answer, label in zip(answers, truth, strict=True)]
        return {f"best/{part}/accuracy": float(np.mean(right))}

    return scores


def longtail(folder: Path, **options: Any) -> Any:
    config = tiny_longtail.config(folder / "images", register=True, epochs=3, **options)
    with tracking.open_run("train_longtail", "tiny") as run:
        summary = longtail_train.run(config, run)
    data = longtail_materials.load_data(config)
    return {"run": run.run_id} | summary, {"val": images_of(data.val), "test": images_of(data.test)}, classified(data.class_names)


def clip(folder: Path, **options: Any) -> Any:
    given = {"data_dir": str(folder / "images"), "class_texts_file": str(folder / "texts.json"), "val_fraction": 0.4, "test_fraction": 0.2}
    config = TrainClipConfig(**tiny_clip.TINY | given | {"register": True, "epochs": 3} | options)
    with tracking.open_run("train_clip", "tiny") as run:
        summary = clip_train.train(config, run)
    pool = clip_data.load(config)
    parts = folds.parts(pool, config)
    return {"run": run.run_id} | summary, {p: images_of(pool.images, parts[p]) for p in ("val", "test")}, classified(pool.class_names)


def posts(folder: Path, **options: Any) -> Any:
    config = tiny_posts.config(folder / "images", register=True, **{"epochs": 3, "head_lr": 0.01} | options)
    with tracking.open_run("optimize_clip", "tiny") as run:
        summary = optimize.train(config, run)
    rows = {part: posts_materials.load_part(config, part) for part in ("val", "test")}
    asked = {
        part: Asked([{"image": str(p), "text": t} for p, t in zip(found.image_paths, found.texts, strict=True)], found.labels)
        for part, found in rows.items()
    }
    return {"run": run.run_id} | summary, asked, classified(CLASS_NAMES)


def unclear(folder: Path) -> None:
    """Make every third picture one of nothing, so that no model is right everywhere and two epochs hardly ever agree."""
    rng = np.random.default_rng(0)
    for path in sorted((folder / "images").rglob("*.png"))[::3]:
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


MAKE: dict[Callable[..., Any], Callable[[Path], Any]] = {
    discovery: lambda folder: tiny.make_images(folder / "images"),
    longtail: lambda folder: tiny_longtail.make_images(folder / "images"),
    clip: lambda folder: (tiny_clip.make_images(folder / "images"), tiny_clip.write_sentences(folder / "texts.json")),
    posts: lambda folder: tiny_posts.write(folder / "images"),
}
CHOSEN: dict[Callable[..., Any], tuple[dict[str, Any], ...]] = {
    discovery: (
        *({"select_by": by} for by in ("last", "val", "oracle")),
        {"select_by": "score", "stage1_epochs": 1},
        {"select_by": "val"} | UNREACHED,
        *({"objective": "both", "answers_by": way} for way in ("kmeans", "classifier")),
    ),
    longtail: (
        *({"select_by": by} for by in ("balanced_accuracy", "accuracy", "macro_f1", "tail_accuracy", "last")),
        UNREACHED,
        {"loss_type": "logit_adjustment"},
    ),
    clip: (*({"select_by": by} for by in ("balanced_accuracy", "accuracy", "macro_f1", "mAP", "last")), UNREACHED, {"save_best": False}),
    posts: (
        *({"select_by": by} for by in ("macro_f1", "accuracy", "balanced_accuracy", "last")),
        UNREACHED,
        {"logit_adjustment": True},
        {"encoder": "tfidf", "min_count": 1},
    ),
}
CASES = [(family, options) for family, ways in CHOSEN.items() for options in ways]


@pytest.fixture(scope="module")
def place(tmp_path_factory, store_template):  # noqa: F811
    """Return a function that gives a family's folder of tiny data; all families share a store."""
    folder = tmp_path_factory.mktemp("figures")
    shutil.copy(store_template, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("TAXON_CACHE", str(folder / "cache"))
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        patch.setattr(pipeline, "StageServer", InProcess)
        patch.setattr("core.stages.inputs.draw_curves", lambda _history, path, *_: path.parent.mkdir(parents=True, exist_ok=True))
        patch.setattr("core.plots.figure.save", lambda _figure, path: path.write_bytes(b""))
        MlflowClient().create_experiment("taxon", artifact_location=f"file://{folder}/artifacts")

        def of(family: Callable[..., Any]) -> Path:
            own = folder / family.__name__
            if not own.exists():
                own.mkdir()
                MAKE[family](own)
                unclear(own)
            return own

        yield of


def named(case: Any) -> str:
    return case.__name__ if callable(case) else ",".join(f"{name}={value}" for name, value in case.items())


@pytest.mark.parametrize(("family", "options"), CASES, ids=named)
def test_the_registered_model_answers_as_its_run_says(place, family, options):
    summary, asked, scores = family(place(family), **options)
    run = MlflowClient().get_run(summary["run"])
    published = run.data.metrics
    model = mlflow.pyfunc.load_model(summary["model"])
    for part, items in asked.items():
        answers = list(model.predict(pandas.DataFrame(items.rows)))
        for name, value in scores(part, items.truth, answers).items():
            assert published[name] == pytest.approx(value, abs=1e-9), (name, part)
        table = local_artifacts(run.info.artifact_uri) / "evaluation" / part / "predictions.csv"
        if family is not discovery:
            rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
            assert [row["predicted"] for row in rows] == [answer["class"] for answer in answers]
    epochs = {"save_best_thresh", "save_best"} & set(options)
    if epochs or options.get("select_by") == "last":
        assert published.get("best_epoch", published.get("best/epoch")) == max(epoch for epoch, _ in summary.get("history", [(2, {})]))
