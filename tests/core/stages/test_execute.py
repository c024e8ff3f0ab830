"""What is done once is not done again, and what a stage stores as it goes is vouched for."""

from __future__ import annotations

import json

import pytest

from core.errors import UserError
from core.stages import execute
from core.stages.stage import Stage
from core.tracking import run as tracking
from core.tracking import stage
from core.tracking.store import scratch
from tests.memory_run import MemoryRun

HERE = "tests.core.stages.test_execute"
COUNTED = Stage("train_superclass", object, f"{HERE}:store")


def store(config, run):
    """Store four files in the four ways that there are."""
    place = scratch("made")
    (place / "c.txt").write_text("c")
    (place / "d").mkdir()
    (place / "d" / "e.txt").write_text("e")
    run.json({"a": config}, "a.json", "deep")
    run.write("b.txt", lambda path: path.write_text("b"))
    run.file(place / "c.txt", "files")
    run.folder(place / "d", "folder")
    run.metrics({"x": 1.0}, 0)
    return {"found": 1}


def store_with_manifest(config, run):
    """Publish by itself, and return more than it has published."""
    stage.publish(run, scratch("made"), {"published": config})
    return {"returned": config, "stored by then": sorted(path.name for path in run.place.iterdir())}


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))
    (tmp_path / "run").mkdir()
    return MemoryRun(tmp_path / "run")


def manifest(run):
    return sorted(json.loads((run.place / "manifest.json").read_text())["files"])


def test_a_stage_that_stores_as_it_goes_gets_a_manifest(recorded):
    assert execute.perform(COUNTED, 7, recorded) == {"found": 1}
    names = ["b.txt", "deep/a.json", "files/c.txt", "folder/e.txt", "summary.json"]
    assert recorded.files() == sorted([*names, "manifest.json"]) and recorded.history == [({"x": 1.0}, 0)]
    assert manifest(recorded) == names


def test_the_summary_that_a_stage_publishes_by_itself_stays_the_published_one(recorded):
    returned = execute.perform(Stage("x", object, f"{HERE}:store_with_manifest"), 7, recorded)
    assert returned == {"returned": 7, "stored by then": ["manifest.json", "summary.json"]}  # whoever removes its work then loses nothing
    assert manifest(recorded) == ["summary.json"] and json.loads((recorded.place / "summary.json").read_text()) == {"published": 7}


def counted(key: str, tmp_path, done: list[str], registers: bool = False) -> execute.Job:
    """Return a job that notes the run it is done in, and publishes a number of its own."""

    def work(run, unfinished):
        done.append(run.run_id)
        run.tags({stage.KEY_TAG: key})
        folder = tmp_path / f"made{len(done)}"
        stage.publish(run, folder, {"number": len(done), "history": [[1, {"loss": 0.5}]], "model": ""})
        return {"number": len(done)}

    return execute.Job(key, work, lambda run: run.params({"asked": "yes"}), registers=registers)


def asked(job: execute.Job, **how) -> tuple[dict, str]:
    """Do a job as a command does; return its summary and its run's id."""
    with tracking.open_run("train_superclass", "asked") as run:
        return execute.command(job, run, **how), run.run_id


def test_a_command_takes_what_a_command_before_it_finished(client, tmp_path):
    done = []
    _, first = asked(counted("k1", tmp_path, done))
    summary, second = asked(counted("k1", tmp_path, done))
    assert done == [first] and summary["number"] == 1
    taken = client.get_run(second).data
    assert taken.tags["taxon.reused"] == first and taken.metrics == {"loss": 0.5} and taken.params == {"asked": "yes"}
    assert stage.load_finished(second).summary["number"] == 1
    assert asked(counted("k2", tmp_path, done))[0] == {"number": 2}
    assert asked(counted("k1", tmp_path, done), reuse=False)[0] == {"number": 3}


def test_what_must_be_registered_is_not_taken_from_a_run_that_registered_nothing(client, tmp_path):
    done = []
    asked(counted("k1", tmp_path, done))
    asked(counted("k1", tmp_path, done, registers=True))
    assert len(done) == 2


def test_a_child_is_done_below_its_parent_once(client, tmp_path, capsys):
    done = []
    with tracking.open_run("pseudo_pipeline", "parent") as parent:
        child = execute.Child(
            COUNTED,
            None,
            "fold 1",
            lambda _config: counted("k1", tmp_path, done),
            tags={"taxon.data": "digits"},
            told=lambda finished: f"number {finished.summary['number']}",
        )
        first = execute.below(child, parent)
        again = execute.below(child, parent)
    assert (first.reused, again.reused) == (False, True) and first.finished == again.finished and done == [first.finished.run_id]
    made = client.get_run(done[0])
    assert (made.data.tags["mlflow.parentRunId"], made.info.run_name, made.data.tags["taxon.data"]) == (parent.run_id, "fold 1", "digits")
    assert client.get_run(parent.run_id).data.tags["taxon.reused.fold_1"] == done[0]
    said = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert said[-1] == "taxon: fold 1 reused number 1" and said[-2].endswith("s number 1")


def test_a_child_whose_key_is_known_is_done_in_this_process_too(client, tmp_path):
    with tracking.open_run("pseudo_pipeline", "parent") as parent:
        child = execute.Child(COUNTED, "one", "stored", key="k1")
        first, again = (execute.required(execute.below(child, parent)) for _ in range(2))
    assert (first.reused, again.reused) == (False, True) and first.finished == again.finished
    assert json.loads((first.finished.folder / "deep" / "a.json").read_text()) == {"a": "one"}


def test_a_child_that_leaves_nothing_whole_is_said(client, tmp_path):
    with tracking.open_run("pseudo_pipeline", "parent") as parent:
        child = execute.Child(COUNTED, None, "fold 1", lambda _config: execute.Job("k1", lambda run, _unfinished: {}))
        with pytest.raises(UserError, match=r"'fold 1' ended, but its artifacts cannot be read .* run the same command again"):
            execute.below(child, parent)
