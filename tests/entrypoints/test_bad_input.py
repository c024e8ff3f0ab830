"""Mistakes and mishaps: one line with the thing and the remedy, exit code 2, the run FAILED with that reason, nothing half-written."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

from core.data.cifar100 import FOLDER
from entrypoints import offline_ssddbc_superclass, pseudo_pipeline, train_superclass
from tests.core.data import fake_cifar
from tests.entrypoints.place import TINY, broken_files, kill_group

LOCAL = "mlflow.store.artifact.local_artifact_repo.LocalArtifactRepository"
TRAIN = ("--dataset=digits", "--epochs=1", "--gpu=cpu", "--num_workers=1")
PIPELINE = tuple(f"--{name}={value}" for name, value in TINY.items())


@dataclass
class Command:
    """Entry points called in this process, in a store of the test's own."""

    client: Any
    folder: Path
    capsys: Any

    def runs(self, experiment: str = "taxon") -> list[Any]:
        """Return all runs of an experiment, newest first."""
        experiment = self.client.get_experiment_by_name(experiment).experiment_id
        return list(self.client.search_runs([experiment], order_by=["attributes.start_time DESC"]))

    def works(self, module: Any, *words: str) -> Any:
        """Run a command that must succeed; return its run."""
        assert module.main(list(words)) == 0
        return self.runs()[0]

    def refused(self, module: Any, *words: str, tracked: bool = True, experiment: str = "taxon") -> str:
        """Run a command that must be refused; return the one line it says."""
        self.capsys.readouterr()
        before = len(self.runs(experiment))
        assert module.main(list(words)) == 2
        captured = self.capsys.readouterr()
        assert captured.err.startswith("taxon: error: ") and captured.err.count("\n") == 1, captured.err
        assert all(line.startswith("taxon: ") for line in captured.out.splitlines()), captured.out  # what it does, epochs
        said = captured.err.removeprefix("taxon: error: ").strip()
        assert len(self.runs(experiment)) == before + tracked
        if tracked:
            run = self.runs(experiment)[0]
            assert (run.info.status, run.data.tags["taxon.reason"]) == ("FAILED", said)
        assert broken_files(self.folder / "artifacts") == []
        assert list((self.folder / "cache" / "tmp").glob("*")) == []
        return said


@pytest.fixture
def command(client, tmp_path, capsys, own_process_state, monkeypatch) -> Command:
    """Return ways to call entry points here."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Command(client, tmp_path, capsys)


@pytest.fixture
def folder_data(tmp_path) -> Path:
    """Return an image folder with three digits, 20 images each, and a few test images."""
    digits = load_digits()
    for label in range(3):
        images = digits.images[digits.target == label][:26]
        for index, image in enumerate(images):
            path = tmp_path / "images" / ("train" if index < 20 else "test") / f"class_{label}" / f"{index:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype(np.uint8)).convert("RGB").resize((32, 32)).save(path)
    return tmp_path / "images"


def on_folder(folder: Path) -> tuple[str, ...]:
    return (
        "--dataset=folder",
        f"--data_root={folder}",
        "--model_name=small_cnn",
        "--epochs=1",
        "--gpu=cpu",
        "--batch_size=16",
        "--num_workers=1",
    )


def test_unknown_superclass(command):
    said = command.refused(train_superclass, "--superclass_name=treees", "--gpu=cpu")
    assert "treees" in said and "did you mean 'trees'?" in said


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--stage1_epochs=4", "--total_epochs=4"), ("total_epochs = 4", "stage1_epochs = 4", "raise total_epochs")),
        (("--stage1_epochs=9", "--total_epochs=4"), ("total_epochs = 4", "stage1_epochs = 9")),
        (("--update_interval=0",), ("update_interval = 0", "larger than 0")),
        (("--sup_con_weight=1.5",), ("sup_con_weight = 1.5", "between 0 and 1")),
        (("--k_min=9", "--k_max=5"), ("k_min = 9", "k_max = 5")),
        (("--labels_per_class=100000",), ("labels_per_class is 100000", "ask for fewer")),
        (("--seed=-1",), ("seed = -1",)),
        (("--eval_funcs=v3",), ("'v3' is no accuracy",)),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_pipeline_options_that_cannot_be(command, words, parts):
    said = command.refused(pseudo_pipeline, *PIPELINE, *words)
    assert all(part in said for part in parts), said


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--epoch=3",), ("no option 'epoch'", "did you mean 'epochs'?")),
        (("--epochs=soon",), ("epochs = 'soon'", "a whole number or auto")),
        (("--epochs=2.5",), ("epochs = '2.5'",)),
        (("--lr=nan",), ("lr = 'nan' is not valid",)),
        (("--select_by=vals",), ("select_by = 'vals'", "did you mean 'val'?")),
        (("--download=perhaps",), ("download = 'perhaps'", "true/false")),
        (("--epochs",), ("epochs",)),
        (("epochs=3",), ("epochs=3",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_options_that_no_parser_takes_open_no_run(command, words, parts):
    said = command.refused(train_superclass, *words, tracked=False)
    assert all(part in said for part in parts), said


def test_a_folder_that_holds_no_data_set_is_named_by_the_run(command, tmp_path):
    (tmp_path / "images").mkdir()
    said = command.refused(pseudo_pipeline, f"--data_root={tmp_path}/images")
    assert f"data_root '{tmp_path}/images' holds no data set that is known" in said
    assert command.runs()[0].info.run_name == "pseudo_pipeline"


def test_missing_data_file(command, tmp_path):
    said = command.refused(train_superclass, "--superclass_name=trees", f"--data_root={tmp_path}/none", "--download=false", "--gpu=cpu")
    assert f"{tmp_path}/none" in said and "put it into" in said


def test_missing_one_of_the_files(command, tmp_path):
    folder = fake_cifar.write_folder(tmp_path / FOLDER)
    (folder / "test.bin").unlink()
    said = command.refused(train_superclass, "--superclass_name=trees", f"--data_root={tmp_path}", "--download=false", "--gpu=cpu")
    assert str(folder) in said


def test_truncated_data_file(command, tmp_path):
    folder = fake_cifar.write_folder(tmp_path / FOLDER)
    data = (folder / "train.bin").read_bytes()
    (folder / "train.bin").write_bytes(data[:-100])
    said = command.refused(train_superclass, "--superclass_name=trees", f"--data_root={tmp_path}", "--gpu=cpu")
    assert str(folder / "train.bin") in said and "cut off" in said and "again" in said


def test_foreign_data_file(command, tmp_path):
    folder = fake_cifar.write_folder(tmp_path / FOLDER)
    said = command.refused(train_superclass, "--superclass_name=trees", f"--data_root={tmp_path}", "--gpu=cpu")
    assert str(folder) in said and "expected 50000" in said


def test_image_folder_with_an_unreadable_image(command, folder_data):
    broken = folder_data / "train" / "class_1" / "03.png"
    broken.write_bytes(broken.read_bytes()[:60])
    said = command.refused(train_superclass, *on_folder(folder_data))
    assert str(broken) in said and "mend or remove" in said


def test_novel_class_that_is_none(command, folder_data):
    said = command.refused(train_superclass, *on_folder(folder_data), "--novel_classes=class_9")
    assert "class_9" in said


def test_a_data_set_without_novel_classes_has_no_new_accuracy(command, folder_data):
    run = command.works(train_superclass, *on_folder(folder_data))
    assert {"unlabelled/v2_all", "unlabelled/v2_old", "test/v2_all"} <= set(run.data.metrics)
    assert not [name for name in run.data.metrics if name.endswith("_new")]


def test_weights_of_another_architecture(command, tmp_path):
    save_file({"layer.weight": np.zeros((3, 3), np.float32)}, tmp_path / "other.safetensors")
    words = (*TRAIN, "--model_name=mobilenetv2_100", "--image_size=32", f"--weights={tmp_path}/other.safetensors")
    said = command.refused(train_superclass, *words)
    assert "other.safetensors are not those of model_name=mobilenetv2_100" in said


def test_a_pickle_where_weights_are_expected(command, tmp_path):
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"layer.weight": [0.0]}))
    for name in ("weights.safetensors", "plain.pkl"):
        words = (*TRAIN, "--model_name=mobilenetv2_100", "--image_size=32", f"--weights={tmp_path}/{name}")
        said = command.refused(train_superclass, *words)
        assert name in said and "pickle" in said and "safetensors" in said


def test_a_pickle_where_a_checkpoint_is_expected(command, tmp_path):
    torch.save({"model": torch.zeros(3)}, tmp_path / "epoch_0001.safetensors")
    for option in ("resume_from_ckpt", "warmup_model_dir"):
        said = command.refused(train_superclass, *TRAIN, f"--{option}={tmp_path}/epoch_0001.safetensors")
        assert "is a pickle, which is never read" in said
    assert "is a pickle" in command.refused(offline_ssddbc_superclass, f"--ckpt_path={tmp_path}/epoch_0001.safetensors", "--gpu=cpu")


@pytest.mark.parametrize("value", ["", "nowhere", "runs:/0123456789abcdef0123456789abcdef/checkpoints", "s3://bucket/x"])
def test_a_checkpoint_that_is_not_there(command, value):
    said = command.refused(offline_ssddbc_superclass, f"--ckpt_path={value}", "--gpu=cpu")
    assert said.startswith("ckpt_path")


def test_pseudo_labels_that_are_none(command, tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    said = command.refused(train_superclass, *TRAIN, f"--pseudo_labels_path={tmp_path}/other.npz")
    assert "other.npz" in said


@pytest.mark.slow
def test_pseudo_labels_of_another_data_set_and_of_another_seed(command, folder_data, pipeline):
    cluster = pipeline.children(pipeline.first_parent().info.run_id)["cluster 2"]
    (path,) = pipeline.artifacts(cluster.info.run_id).glob("pseudo_labels/*.npz")
    said = command.refused(train_superclass, *on_folder(folder_data), f"--pseudo_labels_path={path}")
    assert str(path) in said and "another data set (digits)" in said
    said = command.refused(train_superclass, *TRAIN, "--seed=2", f"--pseudo_labels_path={path}")
    assert str(path) in said and "another split (seed 1)" in said and "same seed" in said


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(command, tmp_path):
    words = ("--dataset=digits", "--epochs=3", "--gpu=cpu", "--num_workers=1", "--save_ckpt_every=1")
    whole = command.works(train_superclass, *words)
    folder = tmp_path / "copy"
    shutil.copytree(Path(whole.info.artifact_uri.removeprefix("file://")) / "checkpoints", folder)
    newest = folder / "epoch_0003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    command.capsys.readouterr()
    again = command.works(train_superclass, *words, f"--resume_from_ckpt={folder}")
    assert f"checkpoint {newest} is damaged or missing; using the one before it" in command.capsys.readouterr().err
    assert again.data.tags["taxon.weights_digest"] == whole.data.tags["taxon.weights_digest"]
    for name in ("epoch_0001", "epoch_0002"):
        (folder / f"{name}.safetensors").write_bytes(b"")
    said = [line for line in _refused_lines(command, *words, f"--resume_from_ckpt={folder}") if "error" in line]
    assert len(said) == 1 and "holds no valid checkpoint" in said[0]


def _refused_lines(command: Command, *words: str) -> list[str]:
    command.capsys.readouterr()
    assert train_superclass.main(list(words)) == 2
    return command.capsys.readouterr().err.splitlines()


def test_no_space_before_the_work_starts(command, monkeypatch):
    full = os.statvfs_result((4096, 4096, 1000, 10, 10, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    said = command.refused(train_superclass, *TRAIN)
    assert "MiB free; free some space there" in said


def test_the_disk_fills_up_while_a_checkpoint_is_written(command, monkeypatch):
    monkeypatch.setattr("core.places.os.fsync", _full)
    said = command.refused(train_superclass, *TRAIN)
    assert "checkpoint of epoch 1 cannot be written" in said and "free space there and run the command again" in said
    assert list((command.folder / "cache" / "work").rglob("*.safetensors*")) == []


@pytest.mark.parametrize("where", [f"{LOCAL}.log_artifact", "core.plots.figure.save"])
def test_the_disk_fills_up_while_results_are_stored(command, monkeypatch, where):
    monkeypatch.setattr(where, _full)
    said = command.refused(train_superclass, *TRAIN)
    assert "No space left" in said and "free some space" in said


def _full(*_args: Any, **_kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/file")


@pytest.mark.slow
def test_a_disk_that_really_is_full(make_place):
    place = make_place("full")
    cache = place.folder / "cache"
    cache.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(cache)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount the small disk that this test fills")
    try:
        done = place.run(place.command("pseudo_pipeline", **TINY))
    finally:
        subprocess.run(["umount", "-l", str(cache)], check=True)
    assert done.returncode == 2
    assert done.stderr.startswith("taxon: error: ") and done.stderr.count("\n") == 1 and "free some space" in done.stderr


def test_a_loss_that_is_not_finite(command):
    said = command.refused(train_superclass, *TRAIN, "--lr=1e30", "--optimizer=sgd")
    assert "is not finite in epoch 1" in said and "lower lr" in said


def test_resuming_a_run_that_is_none(command):
    said = command.refused(pseudo_pipeline, *PIPELINE, "--resume_run_id=0123456789abcdef0123456789abcdef")
    assert "'0123456789abcdef0123456789abcdef' cannot be continued" in said and "give a run of this store" in said


def test_resuming_a_run_of_another_entry_point(command):
    run = command.works(train_superclass, *TRAIN)
    said = command.refused(pseudo_pipeline, *PIPELINE, f"--resume_run_id={run.info.run_id}")
    assert "is one of train_superclass" in said and "give the id of a pseudo_pipeline run" in said
    assert command.client.get_run(run.info.run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("root", "part"), [("s3://bucket/x", "run 'pip install boto3'"), ("gs://bucket/x", "run 'pip install google-cloud-storage'")]
)
def test_an_artifact_root_without_its_library_is_said_before_training(command, monkeypatch, root, part):
    for name in ("boto3", "google.cloud.storage"):
        monkeypatch.setitem(sys.modules, name, None)
    # What nothing may reach: the refusal comes first.
    monkeypatch.setattr("core.stages.discovery.train.run", lambda *_: pytest.fail("it has begun"))
    command.client.create_experiment("elsewhere", artifact_location=root)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    said = command.refused(train_superclass, *TRAIN, experiment="elsewhere")
    assert f"the artifact root '{root}' cannot be used" in said and part in said


@pytest.mark.slow
def test_a_run_id_alone_goes_on_and_more_epochs_train_on(command):
    command.works(pseudo_pipeline, *PIPELINE)
    experiment = command.client.get_experiment_by_name("taxon").experiment_id
    parent = [one for one in command.client.search_runs([experiment]) if one.data.tags["taxon.entry_point"] == "pseudo_pipeline"][-1]
    run, total = parent.info.run_id, int(TINY["total_epochs"])
    before = command.client.get_metric_history(run, "val/accuracy_old")
    assert pseudo_pipeline.main([f"--resume_run_id={run}", f"--total_epochs={total + 1}"]) == 0
    after = command.client.get_metric_history(run, "val/accuracy_old")
    assert [(one.step, one.value) for one in after if one.step <= total] == [(one.step, one.value) for one in before]
    assert max(one.step for one in after) == total + 1
    tags = command.client.get_run(run).data.tags
    assert tags["taxon.total_epochs"] == f"{total},{total + 1}" and "taxon.reused.train_0-2" in tags


@pytest.mark.slow
@pytest.mark.parametrize("network", ["off", "unreachable"])
def test_no_network_for_pretrained_weights(make_place, network, monkeypatch):
    place = make_place("offline")
    environment = place.env | {"HF_HOME": str(place.folder / "hub"), "HF_HUB_OFFLINE": "1" if network == "off" else "0"}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9"}
    words = place.command("train_superclass", dataset="digits", model_name="vit_base_patch16_224.dino", gpu="cpu")
    done = subprocess.run(words, cwd=place.project, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.startswith("taxon: error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "weights" in done.stderr and "vit_base_patch16_224.dino" in done.stderr
    assert place.runs()[0].info.status == "FAILED"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["pseudo_pipeline", "train 0-2", "cluster 2"])
def test_ctrl_c_ends_everything_and_the_same_command_continues(make_place, pipeline, where):
    place = make_place("interrupted")
    process = place.start(place.command("pseudo_pipeline", **TINY))
    try:
        run_id = place.wait_for(where, "RUNNING", process)
        while process.poll() is None and not place.rows(f"select 1 from tags where run_uuid = '{run_id}' and key = 'taxon.host'"):
            time.sleep(0.05)  # the store has made the run, its process has yet to take it over
        os.killpg(process.pid, signal.SIGINT)
        code = process.wait(120)
        assert place.survivors() == []
    finally:
        kill_group(process)
    said = (place.folder / "log").read_text()
    assert code == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "taxon: interrupted; run the same command again to continue"
    for run in place.runs():
        assert run.info.status == ("FINISHED" if "taxon.reason" not in run.data.tags else "KILLED"), run.info.run_name
    assert place.first_parent().info.status == "KILLED"
    done = place.run(place.command("pseudo_pipeline", **TINY))
    assert done.returncode == 0, done.stderr
    assert place.history(place.parents()[0].info.run_id) == pipeline.history(pipeline.first_parent().info.run_id)
