"""Every entry point through the real `mlflow run`, on the digits; what a person finds on the runs' pages."""

from __future__ import annotations

import base64
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.entrypoints.place import GUARD, ROOT, TINY, Place, broken_files, kill_group

pytestmark = pytest.mark.slow

DATA = ROOT.parent / "shared" / "data"
PREDICT = """
import json, mlflow, pandas
model = mlflow.pyfunc.load_model("models:/taxon-discovery-digits@challenger")
print(json.dumps(model.predict(pandas.DataFrame({"image": json.load(open("rows.json"))}))))
"""
TRAIN = {"epochs": "1", "gpu": "cpu", "num_workers": "1"}


@pytest.fixture(scope="module")
def parent(pipeline):
    """Return the undisturbed pipeline's run."""
    return pipeline.first_parent()


@pytest.fixture(scope="module")
def checkpoint(pipeline) -> str:
    """Return the URI of the undisturbed pipeline's last checkpoints."""
    found = pipeline.first_parent()
    return f"runs:/{pipeline.children(found.info.run_id)['train 2-4'].info.run_id}/checkpoints"


def finished(place: Place, entry_point: str, **parameters: str):
    """Run an entry point through MLflow; return its newest parent run, which finished."""
    done = place.run(place.mlflow_command(entry_point, **parameters))
    assert done.returncode == 0, done.stderr
    found = place.parents()[0]
    assert found.info.status == "FINISHED" and found.data.tags["taxon.entry_point"] == entry_point
    assert broken_files(place.artifacts(found.info.run_id)) == []
    return found


def names(place: Place, run_id: str) -> set[str]:
    folder = place.artifacts(run_id)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_pipeline_is_one_parent_with_a_child_run_a_stage(pipeline, parent):
    assert parent.info.status == "FINISHED"
    children = pipeline.children(parent.info.run_id)
    assert set(children) == {"train 0-2", "cluster 2", "train 2-4"}
    assert {run.info.status for run in children.values()} == {"FINISHED"}


def test_the_parents_curves_are_continuous_and_each_step_is_there_once(pipeline, parent):
    history = pipeline.history(parent.info.run_id)
    steps: dict[str, list[int]] = {}
    for name, step, _value in history:
        steps.setdefault(name, []).append(step)
    for name in ("unlabelled/v2_all", "unlabelled/v2_old", "unlabelled/v2_new", "test/v2_all", "val/accuracy_old"):
        assert steps[name] == [0, 1, 2, 3, 4], name
    for name in ("L_total", "L_contrast", "L_supcon", "lr"):
        assert steps[name] == [1, 2, 3, 4], name
    assert steps["pseudo/n_clusters"] == [2]
    assert all(len(found) == len(set(found)) for found in steps.values())


def test_the_parent_holds_pictures_figures_configuration_and_the_command_that_repeats_it(pipeline, parent):
    run_id = parent.info.run_id
    have = names(pipeline, run_id)
    assert {"plots/curves.png", "plots/gallery.png", "plots/confusion.png", "summary.json", "config.json"} <= have
    assert {"heatmaps/epoch_0002/all.png", "heatmaps/epoch_0002/score.png", "heatmaps/epoch_0002/results_grid.json"} <= have
    assert broken_files(pipeline.folder / "artifacts") == []
    config = json.loads((pipeline.artifacts(run_id) / "config.json").read_text())
    assert config["total_epochs"] == 4 and config["dataset"] == "digits"
    tags = parent.data.tags
    assert tags["taxon.command"].startswith("mlflow run . -e pseudo_pipeline -P ") and "total_epochs=4" in tags["taxon.command"]
    assert "| selected model |" in tags["mlflow.note.content"] and "Repeat: `mlflow run" in tags["mlflow.note.content"]
    summary = json.loads((pipeline.artifacts(run_id) / "summary.json").read_text())
    assert tags["taxon.weights_digest"] == summary["weights_digest"]
    assert parent.data.params["total_epochs"] == "4" and "resolved.total_epochs" not in parent.data.params


def test_parent_and_stages_name_their_data_set(pipeline, parent):
    for run in (parent, *pipeline.children(parent.info.run_id).values()):
        (used,) = pipeline.client.get_run(run.info.run_id).inputs.dataset_inputs
        assert used.dataset.name == "digits" and used.dataset.digest


def test_stages_keep_their_files_with_a_manifest(pipeline, parent):
    children = pipeline.children(parent.info.run_id)
    assert {"checkpoints/epoch_0004.safetensors", "plots/curves.png", "config.json", "manifest.json"} <= names(
        pipeline, children["train 2-4"].info.run_id
    )
    clustering = names(pipeline, children["cluster 2"].info.run_id)
    assert {"features/features.safetensors", "features/features.json", "heatmaps/results_grid.json", "manifest.json"} <= clustering
    assert any(name.startswith("pseudo_labels/") and name.endswith(".npz") for name in clustering)


def test_the_registered_model_loads_with_its_own_code_and_predicts(pipeline):
    rows = []
    for image in load_digits().images[:50]:
        buffer = io.BytesIO()
        Image.fromarray((image / 16 * 255).astype(np.uint8)).convert("RGB").save(buffer, format="PNG")
        rows.append(base64.b64encode(buffer.getvalue()).decode())
    (pipeline.folder / "rows.json").write_text(json.dumps(rows))
    words = [sys.executable, "-c", PREDICT]  # a process elsewhere: `core` is the model's copy
    done = subprocess.run(words, cwd=pipeline.folder, env=pipeline.env, capture_output=True, text=True, timeout=GUARD)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert len(said) == 50 and all(set(answer) == {"class", "confidence", "cluster", "known"} for answer in said)
    assert all(0 <= answer["confidence"] <= 1 for answer in said) and len({answer["cluster"] for answer in said}) > 3
    assert not any(path.suffix in (".pkl", ".pt", ".pth", ".bin") for path in (pipeline.folder / "artifacts").rglob("*"))


def test_nothing_is_left_in_the_cache_and_nothing_written_into_the_project(pipeline):
    left = [path for part in ("tmp", "work", "spool") for path in (pipeline.folder / "cache" / part).glob("*")]
    assert left == []
    assert not (pipeline.project / "mlruns").exists() and not (pipeline.project / "mlflow.db").exists()


def test_the_same_pipeline_again_reuses_every_stage_and_gives_the_same_figures(pipeline, parent):
    before = {run.info.run_id for run in pipeline.runs()}
    again = finished(pipeline, "pseudo_pipeline", **TINY)
    assert {run.info.run_id for run in pipeline.runs()} - before == {again.info.run_id}
    reused = {name: value for name, value in again.data.tags.items() if name.startswith("taxon.reused.")}
    children = pipeline.children(parent.info.run_id)
    assert reused == {f"taxon.reused.{name.replace(' ', '_')}": run.info.run_id for name, run in children.items()}
    assert pipeline.history(again.info.run_id) == pipeline.history(parent.info.run_id)
    assert again.data.tags["taxon.weights_digest"] == parent.data.tags["taxon.weights_digest"]


def test_train_superclass(make_place):
    place = make_place("train")
    run = finished(place, "train_superclass", dataset="digits", save_features_and_exit="true", **TRAIN)
    have = names(place, run.info.run_id)
    assert {"checkpoints/epoch_0001.safetensors", "config.json", "plots/curves.png", "features/features.safetensors"} <= have
    assert {step for name, step, _ in place.history(run.info.run_id) if name == "test/v2_all"} == {0, 1}


def test_superclass_table(make_place):
    place = make_place("table")
    short = {name: TINY[name] for name in ("k_min", "k_max", "density_step", "max_workers", "gpu")}
    epochs = {"stage1_epochs": 1, "update_interval": 1, "total_epochs": 2}
    run = finished(place, "superclass_table", dataset="digits", seeds="1", arms="contrast,ceiling", **short, **epochs)
    assert {"table/figures.csv", "table/table.md", "plots/arms.png"} <= names(place, run.info.run_id)
    metrics = run.data.metrics
    assert metrics["test/v2_all/ceiling"] > metrics["test/v2_all/contrast"] + 0.05
    assert "| ceiling - contrast |" in run.data.tags["mlflow.note.content"]


def test_cache_features_of_a_checkpoint_and_of_the_best_one(pipeline, checkpoint):
    run = finished(pipeline, "cache_features", model_path=checkpoint, gpu="cpu", overwrite="true")
    about = json.loads((pipeline.artifacts(run.info.run_id) / "features" / "features.json").read_text())
    assert about["transform"]["kind"] == "evaluation" and about["l2_normalised"] and len(set(about["ids"])) == len(about["ids"]) == 1797
    best = finished(pipeline, "cache_features", auto_find_best="true", gpu="cpu")
    assert "features/features.safetensors" in names(pipeline, best.info.run_id)


def test_offline_ssddbc(pipeline, checkpoint):
    grid = {name: TINY[name] for name in ("k_min", "k_max", "density_step", "max_workers", "gpu")}
    run = finished(pipeline, "offline_ssddbc_superclass", ckpt_path=checkpoint, debug_cluster_heatmap="true", **grid)
    have = names(pipeline, run.info.run_id)
    assert {f"heatmaps/{name}.png" for name in ("all", "old", "new", "n_clusters", "score")} <= have
    assert any(name.startswith("pseudo_labels/digits_epoch_4_k") for name in have)


def test_data_split_generator_on_the_digits(make_place):
    place = make_place("splits")
    run = finished(place, "data_split_generator", dataset="digits")
    summary = json.loads((place.artifacts(run.info.run_id) / "splits" / "gcd_superclass_splits_summary.json").read_text())
    assert set(summary["superclasses"]) == {"digits"}


def test_data_split_generator_on_trees(make_place):
    if not list(DATA.glob("cifar-100-binary*")):
        pytest.skip(f"no CIFAR-100 in {DATA.relative_to(ROOT.parent)}: put cifar-100-binary or its archive there to run this test")
    place = make_place("trees")
    run = finished(place, "data_split_generator", superclass_name="trees", data_root=str(DATA), download="false")
    (path,) = (place.artifacts(run.info.run_id) / "splits").glob("superclass_*_trees.json")
    counts = json.loads(path.read_text())["counts"]
    assert (counts["labelled"], counts["validation"], counts["unlabelled"], counts["test"]) == (1440, 160, 900, 500)


def test_odd_values_arrive_as_declared_and_as_undeclared_parameters(make_place, tmp_path):
    """MLflow quotes for the shell, which it logs too; what the stage wrote says what arrived."""
    place = make_place("odd_values")
    folder = tmp_path / 'it\'s "a", b=c $HOME `x` 木ü; # *'
    folder.mkdir()
    load = {"train_dir": str(folder), "train_annotations": str(tmp_path / "--an, 'odd' = $name\nin two lines.json")}
    items = [{"disease_class": label, "image_id": f"{label}.png"} for label in (1, 2)]
    Path(load["train_annotations"]).write_text(json.dumps(items))
    for item in items:
        Image.new("RGB", (6, 5), (9 * item["disease_class"], 0, 0)).save(folder / item["image_id"])
    # The older spelling is declared nowhere; a relative path begins with dashes.
    given = load | {"output-dir": f"--epochs, 'out' {tmp_path.name}"}
    run = finished(place, "prepare_longtail", **given)
    report = json.loads((place.artifacts(run.info.run_id) / "metadata" / "report.json").read_text())
    wanted = load | {"output_dir": given["output-dir"]}
    assert {name: report["parameters"][name] for name in wanted} == wanted and report["images"]["train"] == 2
    assert (place.project / wanted["output_dir"] / "report.json").is_file()
    assert {name: run.data.params[name] for name in given} == {name: shlex.quote(value) for name, value in given.items()}
    shutil.rmtree(place.project / wanted["output_dir"])


def test_a_users_mistake_reaches_the_run_that_mlflow_opened(make_place):
    place = make_place("mistake")
    done = place.run(place.mlflow_command("train_superclass", epochs="many"))
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("taxon: error:")]
    assert said == ["taxon: error: epochs = 'many' is not valid: it takes a whole number or auto"]
    assert "Traceback" not in done.stderr
    (run,) = place.runs()
    assert run.info.status == "FAILED" and run.data.tags["taxon.reason"] == said[0].removeprefix("taxon: error: ")
    assert run.info.run_name == run.data.tags["taxon.entry_point"] == "train_superclass"


def test_an_interrupted_run_is_killed_though_mlflow_run_calls_it_failed(make_place):
    place = make_place("interrupted by mlflow")
    process = place.start(place.mlflow_command("train_superclass", dataset="digits", epochs="200", gpu="cpu"))
    try:
        while "epoch 1/200" not in (place.folder / "log").read_text():
            assert process.poll() is None, (place.folder / "log").read_text()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(120) == 1
    finally:
        kill_group(process)
    end = time.monotonic() + 120
    while place.runs()[0].info.status != "KILLED":
        assert time.monotonic() < end, place.runs()[0].info.status
        time.sleep(0.2)
    assert "run the same command again" in place.runs()[0].data.tags["taxon.reason"]


def test_resuming_continues_the_same_parent_and_a_second_pipeline_on_it_is_refused(make_place, pipeline, parent):
    place = make_place("resume")
    first = place.start(place.command("pseudo_pipeline", **TINY))
    second = None
    try:
        place.wait_for("cluster 2", "RUNNING", first)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert place.survivors() == []
        (killed,) = place.parents()
        resume = TINY | {"resume_run_id": killed.info.run_id}
        second = place.start(place.command("pseudo_pipeline", **resume))
        place.wait_for("train 2-4", "RUNNING", second)
        os.kill(second.pid, signal.SIGSTOP)  # stands still while the third one tries
        third = place.run(place.command("pseudo_pipeline", **resume))
        os.kill(second.pid, signal.SIGCONT)
        assert third.returncode == 2
        said = (
            f"taxon: error: run {killed.info.run_id} is in use by another process of this machine; wait for it or stop it, then try again\n"
        )
        assert third.stderr == said
        assert second.wait(600) == 0, (place.folder / "log").read_text()
    finally:
        for process in (first, *([second] if second else [])):
            kill_group(process)
    resumed = place.client.get_run(killed.info.run_id)
    assert resumed.info.status == "FINISHED" and "taxon.reason" not in resumed.data.tags
    assert place.history(killed.info.run_id) == pipeline.history(parent.info.run_id)
    assert resumed.data.tags["taxon.weights_digest"] == parent.data.tags["taxon.weights_digest"]


def test_resuming_with_other_parameters_is_refused(pipeline, parent):
    words = TINY | {"resume_run_id": parent.info.run_id, "lr": "0.5"}
    done = pipeline.run(pipeline.command("pseudo_pipeline", **words))
    assert done.returncode == 2
    assert done.stderr.startswith(f"taxon: error: run {parent.info.run_id} was started with lr = 0.001, not 0.5; ")
    assert done.stderr.count("\n") == 1
    assert pipeline.client.get_run(parent.info.run_id).info.status == "FINISHED"
