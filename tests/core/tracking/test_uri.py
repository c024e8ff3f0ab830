"""One resolver for inputs: what it finds, and the one line when there is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import UserError
from core.tracking import run as tracking
from core.tracking import uri


@pytest.fixture
def run_id(client, tmp_path) -> str:
    run = tracking.open_run("train", "x")
    (tmp_path / "note.txt").write_text("hello")
    run.file(tmp_path / "note.txt", "folder")
    run.finish()
    return run.run_id


def refusal(address: str) -> str:
    with pytest.raises(UserError) as caught:
        uri.resolve(address, "ckpt_path")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("ckpt_path = '")
    return str(caught.value)


def test_a_local_path_is_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").write_text("")
    assert uri.resolve(str(tmp_path / "here"), "ckpt_path") == tmp_path / "here"
    assert uri.resolve("~/here", "ckpt_path") == tmp_path / "here"


def test_a_runs_artifact_is_read_in_place(run_id, tmp_path):
    found = uri.resolve(f"runs:/{run_id}/folder/note.txt", "ckpt_path")
    assert found.read_text() == "hello" and found.is_relative_to(tmp_path / "artifacts")
    assert uri.resolve(f"runs:/{run_id}", "ckpt_path").is_dir()


@pytest.mark.parametrize("path", ["../../note.txt", "folder/../../../x", "..", "/etc/passwd", "//etc/passwd"])
def test_no_path_leaves_its_run(run_id, path):
    assert "leaves its run's folder" in refusal(f"runs:/{run_id}/{path}")


def test_what_is_not_there_is_one_line(run_id):
    assert "has no artifact 'folder/other'" in refusal(f"runs:/{run_id}/folder/other")
    assert "cannot be read" in refusal("runs:/0123456789abcdef0123456789abcdef/x")
    assert "cannot be read" in refusal("models:/nothing@champion")
    assert "does not exist" in refusal("nowhere/x.safetensors")
    assert "neither" in refusal("https://example.org/x")


def test_a_registered_model_is_downloaded(client, run_id):
    import mlflow

    model = mlflow.initialize_logged_model(name="m", source_run_id=run_id)
    source = uri.resolve(f"runs:/{run_id}/folder", "x")
    (source / "MLmodel").write_text("flavors: {}\n")
    client.log_model_artifacts(model.model_id, str(source))
    mlflow.finalize_logged_model(model.model_id, "READY")
    assert (uri.resolve(f"models:/{model.model_id}", "model_path") / "note.txt").read_text() == "hello"


@pytest.mark.parametrize(
    ("address", "folder"),
    [
        ("file:///a%20b/c", Path("/a b/c")),
        ("file:/a/c", Path("/a/c")),
        ("/a/c", Path("/a/c")),
        ("mlruns/0", Path("mlruns/0")),
        ("s3://bucket/x", None),
        ("mlflow-artifacts:/1/x", None),
    ],
)
def test_local_artifact_stores_are_told_from_remote_ones(address, folder):
    assert uri.local_artifacts(address) == folder
