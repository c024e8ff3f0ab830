"""The long-tail family through the real `mlflow run`: prepare, train, evaluate, serve; a kill in the middle; a mistake."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.core.stages.longtail import tiny
from tests.core.stages.tiny import CLASSES
from tests.entrypoints.place import GUARD, Place, broken_files, kill_group

pytestmark = pytest.mark.slow

PREDICT = """
import json, sys, mlflow, pandas
model = mlflow.pyfunc.load_model("models:/taxon-longtail-glyphs@challenger")
print(json.dumps(list(model.predict(pandas.DataFrame({"image": json.load(open("paths.json"))})))))
"""
SMALL = {
    "backbone": "small_cnn",
    "pretrained": "false",
    "image_size": "12",
    "progressive_image_size": "16",
    "epochs": "6",
    "schedule_epochs": "50",
    "batch_size": "8",
    "use_ema": "true",
    "ema_decay": "0.8",
    "balance_sampler": "true",
    "use_cosine_classifier": "true",
    "use_center_loss": "true",
    "use_amp": "false",
    "gpu": "cpu",
    "threads": "1",
    "num_workers": "1",
}


def finished(place: Place, entry_point: str, **parameters: str):
    """Run an entry point through MLflow; return its newest run, which finished."""
    done = place.run(place.mlflow_command(entry_point, **parameters))
    assert done.returncode == 0, done.stderr
    run = place.parents()[0]
    assert run.info.status == "FINISHED" and run.data.tags["taxon.entry_point"] == entry_point
    assert broken_files(place.artifacts(run.info.run_id)) == []
    return run


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return tiny.make_images(tmp_path_factory.mktemp("data") / "glyphs")


@pytest.fixture(scope="module")
def options(images) -> dict[str, str]:
    """Return the options of the training: prepared metadata, paths from the parts' folders."""
    out = images.parent / "prepared"
    parts = ("train", "val", "test")
    places = {f"{part}_dir": str(images / part) for part in parts} | {f"{part}_meta": str(out / f"{part}_metadata.csv") for part in parts}
    return SMALL | places | {"class_weights": str(out / "class_weights.csv")}


@pytest.fixture(scope="module")
def trained(make_place, images, options) -> Place:
    """Return the place where the images were prepared and one training ran undisturbed."""
    place = make_place("longtail")
    folders = {name: value for name, value in options.items() if name.endswith("_dir")}
    finished(place, "prepare_longtail", output_dir=str(images.parent / "prepared"), **folders)
    finished(place, "train_longtail", **options)
    return place


def training_of(place: Place):
    """Return the oldest training of a place."""
    return [run for run in place.runs() if run.data.tags.get("taxon.entry_point") == "train_longtail"][-1]


def test_a_training_keeps_its_checkpoints_timeline_pictures_and_figures(trained):
    run = training_of(trained)
    folder = trained.artifacts(run.info.run_id)
    have = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wanted = {f"evaluation/{part}/{name}.png" for part in ("val", "test") for name in ("per_class", "confusion", "reliability")}
    wanted |= {"timeline.json", "config.json", "manifest.json", "summary.json", "plots/curves.png", "checkpoints/epoch_0006.safetensors"}
    assert wanted <= have
    summary = json.loads((folder / "summary.json").read_text())
    assert run.data.tags["taxon.weights_digest"] == summary["weights_digest"] and summary["best_checkpoint"] in have
    assert run.data.params["backbone"] == "small_cnn" and run.data.tags["taxon.data"] == "glyphs"
    steps = sorted(step for name, step, _ in trained.history(run.info.run_id) if name == "val/balanced_accuracy")
    assert steps == [1, 2, 3, 4, 5, 6] and "| part | accuracy |" in run.data.tags["mlflow.note.content"]
    assert run.data.metrics["best/test/accuracy"] == summary["best_metrics"]["best/test/accuracy"]


def test_what_is_given_overrides_the_file_and_what_is_not_given_does_not(make_place, images, tmp_path):
    """`mlflow run` passes every declared parameter; 42 and 5e-4 are the options' own defaults."""
    place = make_place("file_of_options")
    path = tmp_path / "it's options.yaml"
    filed = SMALL | {"epochs": 1, "seed": 7, "val_dir": str(images / "test"), "use_ema": "false", "label_smoothing": None}
    path.write_text(json.dumps(filed))  # which is YAML too
    given = {"train_dir": str(images / "train"), "seed": "42", "lr": "5e-4", "register": "false", "use_ema": "true"}
    run = finished(place, "train_longtail", config=str(path), **given)
    used = json.loads((place.artifacts(run.info.run_id) / "config.json").read_text())
    expected = {"seed": 42, "epochs": 1, "val_dir": str(images / "test"), "backbone": "small_cnn", "use_ema": True, "label_smoothing": 0.05}
    assert {name: used[name] for name in expected} == expected
    assert (run.data.params["seed"], run.data.params["epochs"], run.data.tags["taxon.config"]) == ("42", "1", str(path))


def test_evaluating_the_run_gives_the_figures_that_the_training_gave(trained):
    training = training_of(trained)
    for part in ("val", "test"):
        run = finished(
            trained, "evaluate_longtail", checkpoint=f"runs:/{training.info.run_id}", part=part, gpu="cpu", use_amp="false", threads="1"
        )
        name = f"best/{part}/"
        scores = {key: value for key, value in run.data.metrics.items() if key.startswith(name)}
        assert scores == {key: value for key, value in training.data.metrics.items() if key.startswith(name)} and len(scores) > 6
        at = trained.artifacts(run.info.run_id) / "evaluation" / part
        assert {"metrics.json", "intervals.json", "per_class.csv", "confusion.png"} <= {path.name for path in at.iterdir()}


def test_the_registered_model_answers_as_the_training_evaluated(trained, images):
    paths = sorted(str(path) for path in (images / "test").rglob("*.png"))
    (trained.folder / "paths.json").write_text(json.dumps(paths))
    words = [sys.executable, "-c", PREDICT]  # a process elsewhere: `core` is the model's copy
    done = subprocess.run(words, cwd=trained.folder, env=trained.env, capture_output=True, text=True, timeout=GUARD)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    table = trained.artifacts(training_of(trained).info.run_id) / "evaluation" / "test" / "predictions.csv"
    with open(table, newline="") as file:
        expected = {row["image"]: row for row in csv.DictReader(file)}
    assert len(expected) == len(answers) == len(paths) and {answer["class"] for answer in answers} <= set(CLASSES)
    for path, answer in zip(paths, answers, strict=True):
        row = expected["/".join(Path(path).parts[-3:])]
        assert answer["class"] == row["predicted"] and answer["confidence"] == pytest.approx(float(row["confidence"]), abs=1e-5)


def test_a_training_killed_in_the_middle_continues_to_the_same_result(make_place, trained, options):
    place = make_place("killed_longtail")
    process = place.start(place.command("train_longtail", **options))
    try:
        _wait_for_checkpoint(place, process, 3)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert place.survivors() == []
    finally:
        kill_group(process)
    done = place.run(place.command("train_longtail", **options))
    assert done.returncode == 0, done.stderr
    expected, found = training_of(trained), place.parents()[0]
    assert found.data.tags["taxon.weights_digest"] == expected.data.tags["taxon.weights_digest"]
    assert [row for row in place.history(found.info.run_id) if not row[0].startswith("step/")] == [
        row for row in trained.history(expected.info.run_id) if not row[0].startswith("step/")
    ]
    assert {run.info.status for run in place.parents()} == {"FINISHED", "KILLED"}
    assert list((place.folder / "cache" / "work").glob("*")) == []


def _wait_for_checkpoint(place: Place, process: subprocess.Popen, epoch: int) -> None:
    end = time.monotonic() + GUARD
    while time.monotonic() < end and process.poll() is None:
        if list((place.folder / "cache" / "work").glob(f"*/checkpoints/epoch_{epoch:04d}.safetensors")):
            return
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint of epoch {epoch}; log:\n{(place.folder / 'log').read_text()}")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"stage2_epoch": "-2"}, "stage2_epoch = -2; give an epoch from 0, or -1 for never"),
        ({"model_type": "multitask", "use_center_loss": "false"}, "use_cosine_classifier = true does not go with model_type = multitask"),
    ],
)
def test_a_users_mistake_fails_the_run_with_its_reason(make_place, options, wrong, said):
    place = make_place("mistaken_longtail")
    done = place.run(place.mlflow_command("train_longtail", **options | wrong))
    assert done.returncode != 0 and "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("taxon: error:")]
    assert len(lines) == 1 and said in lines[0]
    (run,) = place.runs()
    assert run.info.status == "FAILED" and run.data.tags["taxon.reason"] == lines[0].removeprefix("taxon: error: ")
