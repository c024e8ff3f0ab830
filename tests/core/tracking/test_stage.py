"""A finished stage is found again exactly when nothing it depends on has changed and its files are intact."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from core import config
from core.errors import UserError
from core.stages.discovery.config import TrainConfig
from core.tracking import provenance, stage
from core.tracking import run as tracking

PARTS = {"entry_point": "train", "parameters": {"lr": 0.1}, "inputs": {"data": "d1"}, "environment": {"device": "cpu"}}


@pytest.mark.parametrize(
    "changed",
    [
        {"entry_point": "cluster"},
        {"parameters": {"lr": 0.2}},
        {"parameters": {"lr": 0.1, "epochs": 1}},
        {"inputs": {"data": "d2"}},
        {"environment": {"device": "cuda"}},
    ],
)
def test_every_part_changes_the_key(changed):
    assert stage.stage_key(**PARTS) == stage.stage_key(**PARTS)
    assert stage.stage_key(**PARTS | changed) != stage.stage_key(**PARTS)


@pytest.mark.parametrize(("name", "value"), [("code_digest", "other"), ("versions", {"torch": "0"})])
def test_code_and_libraries_change_the_key(monkeypatch, name, value):
    before = stage.stage_key(**PARTS)
    monkeypatch.setattr(provenance, name, lambda: value)
    assert stage.stage_key(**PARTS) != before


def test_the_order_of_parameters_does_not_matter():
    one, other = {"lr": 0.1, "epochs": 3}, {"epochs": 3, "lr": 0.1}
    assert stage.stage_key(**PARTS | {"parameters": one}) == stage.stage_key(**PARTS | {"parameters": other})


def test_only_options_that_change_a_result_enter_the_key():
    base = TrainConfig()
    idle = {f.name for f in dataclasses.fields(TrainConfig) if f.metadata["role"] == "machine"}
    assert {"num_workers", "gpu", "download"} <= idle
    for name in idle:
        assert config.asked(dataclasses.replace(base, **{name: 3})) == config.asked(base)
    assert config.asked(dataclasses.replace(base, seed=2)) != config.asked(base)
    assert set(config.asked(base)) <= set(config.canonical(base, results_only=True))


@pytest.fixture
def finished(client, tmp_path):
    """Return (key, artifact folder) of a finished stage with two files."""
    return make(client, tmp_path, "FINISHED")


def make(client, tmp_path: Path, status: str) -> tuple[str, Path]:
    run = tracking.open_run("train", "x")
    key = stage.stage_key(**PARTS)
    run.tags({stage.KEY_TAG: key})
    folder = stage.work_folder(key)
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "weights").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    (folder / ".half").write_text("not kept")
    stage.publish(run, folder, {"epoch": 3}, keep=lambda path: not path.name.startswith("."))
    run.finish(status)
    return key, tmp_path / "artifacts" / run.run_id / "artifacts"


def test_a_finished_stage_is_found_with_its_files_and_summary(finished):
    key, folder = finished
    found = stage.find_finished(key)
    assert found.folder == folder
    assert found.summary == {"epoch": 3}
    assert sorted(found.manifest) == ["checkpoints/weights", "config.json", "summary.json"]
    assert stage.find_finished("another key") is None


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_stage_that_did_not_finish_is_not_reused(client, tmp_path, status):
    key, _folder = make(client, tmp_path, status)
    assert stage.find_finished(key) is None


def test_what_comes_later_joins_the_summary_and_changes_no_published_file(client, tmp_path):
    run, folder = tracking.open_run("train", "x"), tmp_path / "made"
    folder.mkdir()
    (folder / "table").write_text("first")
    first = stage.publish(run, folder, {"epoch": 3})
    (folder / "table").write_text("second")
    (folder / "picture").write_text("drawn")
    second = stage.publish_more(run, folder, {"model": "models:/x/1"}, first)
    run.finish()
    found = stage.load_finished(run.run_id)
    assert found.summary == {"epoch": 3, "model": "models:/x/1"} and found.manifest == second
    assert sorted(second.keys() - first.keys()) == ["added.json", "picture"] and (found.folder / "table").read_text() == "first"


LIGHTER = {"config.json": b"[]", "checkpoints/weights": b"light"}


@pytest.mark.parametrize("stored", [0, 1, 2, 3])
def test_replaced_files_leave_a_whole_stage_at_every_moment(finished, monkeypatch, stored):
    """Killed after the manifest and so many files: either version of each is vouched for, half a file is not."""
    key, folder = finished
    left = iter(range(stored))
    write = stage.write_atomically
    monkeypatch.setattr(stage, "write_atomically", lambda *given: next(left, None) is not None and write(*given))
    stage.replace(stage.find_finished(key), LIGHTER)
    kept = [(folder / name).read_bytes() for name in LIGHTER]
    assert kept == [b"[]" if stored > 1 else b"{}", b"light" if stored > 2 else b"weights"]
    assert stage.find_finished(key).summary == {"epoch": 3}
    (folder / "checkpoints" / "weights").write_bytes(b"ligh")
    assert stage.find_finished(key) is None


def test_replaced_files_reach_a_store_elsewhere_the_manifest_first(finished, client, monkeypatch):
    key, _folder = finished
    found, sent = stage.find_finished(key), []
    monkeypatch.setattr(stage, "local_artifacts", lambda uri: None)
    client.log_artifact = lambda run_id, path, folder: sent.append((run_id, Path(path).name, folder))
    stage.replace(found, LIGHTER, client)
    assert sent == [(found.run_id, "manifest.json", ""), (found.run_id, "config.json", ""), (found.run_id, "weights", "checkpoints")]


@pytest.mark.parametrize("status", ["FAILED", "KILLED", "RUNNING"])
def test_a_run_that_published_but_did_not_finish_is_found_with_what_is_left_once_it_has_ended(client, tmp_path, status):
    key, folder = make(client, tmp_path, "FAILED")
    assert stage.find_unfinished(key) is None
    run = tracking.reopen(folder.parent.name)
    run.tags({stage.UNFINISHED_TAG: "pictures, note"})
    if status == "RUNNING":
        assert stage.find_unfinished(key) is None
        run.untag(stage.UNFINISHED_TAG)
        run.finish("FAILED")
        assert stage.find_unfinished(key) is None
        return
    run.finish(status)
    found, left = stage.find_unfinished(key)
    assert (found.folder, left) == (folder, ("pictures", "note")) and stage.find_finished(key) is None
    (folder / "config.json").unlink()
    assert stage.find_unfinished(key) is None


@pytest.mark.parametrize("name", ["checkpoints/weights", "config.json", "summary.json"])
def test_a_file_that_was_changed_is_noticed(finished, name):
    key, folder = finished
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert stage.find_finished(key) is None


@pytest.mark.parametrize("name", ["checkpoints/weights", "config.json", "summary.json", "manifest.json"])
def test_a_file_that_is_missing_is_noticed(finished, name):
    key, folder = finished
    (folder / name).unlink()
    assert stage.find_finished(key) is None


@pytest.mark.parametrize("content", ["", "[]", '{"files": []}', '{"files": {}}', '{"files": {"summary.json": {}}}'])
def test_a_manifest_that_is_none_is_not_trusted(finished, content):
    key, folder = finished
    (folder / "manifest.json").write_text(content)
    assert stage.find_finished(key) is None


def test_an_older_intact_run_stands_in_for_a_damaged_one(client, tmp_path, finished):
    key, older = finished
    _key, newer = make(client, tmp_path, "FINISHED")
    (newer / "config.json").write_text("other")
    assert stage.find_finished(key).folder == older


def test_the_best_checkpoint_is_the_best_scored_one_on_these_images_never_an_oracles(client):
    def training(score: str, images: str = "d1", **drawn: Any) -> str:
        run = tracking.open_run("train", "x")
        told = {"taxon.select_by": drawn.pop("select_by", "last"), "taxon.images": images}
        told |= {"taxon.split": json.dumps({"seed": 1, "novel": ["ring"]} | drawn), "taxon.data": "folder/images"}
        run.tags({"taxon.best_checkpoint": "checkpoints/e", "taxon.best_score": score, **told})
        run.finish()
        return run.run_id

    assert stage.best_checkpoint("d1", {}, client) == "" and stage.trained_data(client) == set()
    training("0.5")
    fifth = training("0.6", seed=5)
    best = training("0.75")
    training("0.9", select_by="oracle")
    training("0.97", hidden_classes=1)  # not told all labels
    training("0.98", labels="all")
    training("0.95", images="d2")  # another folder of the same name
    assert stage.best_checkpoint("d1", {}, client) == f"runs:/{best}/checkpoints/e" and stage.trained_data(client) == {"folder/images"}
    assert stage.best_checkpoint("d1", {"seed": 5}, client) == f"runs:/{fifth}/checkpoints/e"
    assert stage.best_checkpoint("d1", {"seed": 6}, client) == stage.best_checkpoint("d3", {}, client) == ""
    stars = training("0.8", novel=["star"])
    assert stage.best_checkpoint("d1", {"novel": ["star"]}, client) == f"runs:/{stars}/checkpoints/e"
    assert stage.best_checkpoint("d1", {"novel": ["ring"]}, client) == f"runs:/{best}/checkpoints/e"
    with pytest.raises(UserError, match="novel classes ring and star: give novel_classes"):
        stage.best_checkpoint("d1", {}, client)


def test_the_manifest_vouches_for_size_and_digest(finished):
    _key, folder = finished
    entry = json.loads((folder / "manifest.json").read_text())["files"]["checkpoints/weights"]
    assert entry["size"] == 7 and len(entry["sha256"]) == 64


def test_a_study_leaves_files_out_and_hears_of_work_folders(client, tmp_path):
    with stage.watched(lambda path: path.parent.name != "checkpoints") as folders:
        key, artifacts = make(client, tmp_path, "FINISHED")
    assert folders == [stage.work_folder(key)] * len(folders) and folders
    assert not (artifacts / "checkpoints").exists() and (artifacts / "config.json").exists()
    assert set(stage.find_finished(key).manifest) == {"config.json", stage.SUMMARY}
    assert stage.work_folder("another key") not in folders
