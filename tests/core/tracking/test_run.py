"""A run is opened by one process, ended with its true status, and continued without a second copy of anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from mlflow.exceptions import MlflowException

from core.errors import UserError
from core.tracking import provenance
from core.tracking import run as tracking
from core.tracking.store import machine_lock

OPEN = "from core.tracking import run\nr = run.open_run('train_superclass', 'x')\nprint(r.run_id, flush=True)\nimport time\ntime.sleep(60)"


def status(client, run_id: str) -> str:
    return client.get_run(run_id).info.status


def steps(client, run_id: str, key: str) -> list[int]:
    return sorted(metric.step for metric in client.get_metric_history(run_id, key))


@pytest.fixture
def other_process(client):
    """Return a process that holds an open run, and the run's id."""
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(provenance.ROOT)}
    )
    yield process, process.stdout.readline().strip()
    process.kill()
    process.wait()


def test_a_run_of_ones_own_ends_finished(client):
    run = tracking.open_run("train_superclass", "digits")
    run.metrics({"loss": 1.0}, 3)
    run.json({"b": 1, "a": 2}, "facts.json", "folder")
    run.finish()
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED" and found.info.run_name == "digits"
    assert found.data.metrics == {"loss": 1.0}
    assert found.data.tags["taxon.entry_point"] == "train_superclass"
    assert [item.path for item in client.list_artifacts(run.run_id, "folder")] == ["folder/facts.json"]


def test_the_run_that_mlflow_made_is_taken_over_once(client, monkeypatch):
    made = client.create_run(client.get_experiment_by_name("taxon").experiment_id).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    run = tracking.open_run("train_superclass", "digits")
    assert run.run_id == made
    assert "MLFLOW_RUN_ID" not in os.environ
    run.finish()


def test_a_child_has_its_parent_and_leaves_the_parent_alone(client, monkeypatch):
    parent = tracking.open_run("pseudo_pipeline", "parent")
    monkeypatch.setenv("MLFLOW_RUN_ID", parent.run_id)
    child = tracking.open_child(parent.run_id, "train 0-5", "train_superclass", {"taxon.data": "digits"})
    assert child.run_id != parent.run_id
    child.finish("FAILED", "why")
    tags = client.get_run(child.run_id).data.tags
    assert tags["mlflow.parentRunId"] == parent.run_id
    assert tags["taxon.reason"] == "why" and tags["taxon.data"] == "digits"
    assert (status(client, child.run_id), status(client, parent.run_id)) == ("FAILED", "RUNNING")
    parent.finish()


def test_a_childs_start_is_counted_from_when_it_was_asked_for(client):
    asked_at = time.time()
    with tracking.open_run("pseudo_pipeline", "parent") as parent, tracking.open_child(parent.run_id, "fold 2", "train_clip", {}) as child:
        child.started()
    (metric,) = client.get_metric_history(child.run_id, "time/startup_seconds")
    assert 0 <= metric.value <= time.time() - asked_at  # not since this process began


def test_parameters_that_mlflow_logged_are_not_logged_twice(client):
    run = tracking.open_run("train_superclass", "digits")
    client.log_param(run.run_id, "lr", "0.1")
    run.params({"lr": 0.2, "epochs": 3})
    run.params({"epochs": 4})
    assert client.get_run(run.run_id).data.params == {"lr": "0.1", "epochs": "3"}
    run.finish()


def test_an_option_is_logged_once_unless_mlflow_run_has_written_another_text(client):
    run = tracking.open_run("train_superclass", "x")
    run.params({"lr": "''", "weights": "''", "epochs": "4"})  # as `mlflow run` writes: nothing for what was declared and not given
    run.options({"lr": 0.1, "weights": "", "epochs": 4, "seed": 1})
    params = client.get_run(run.run_id).data.params
    assert params == {"lr": "''", "resolved.lr": "0.1", "weights": "''", "epochs": "4", "seed": "1"}
    run.finish("KILLED")
    again = tracking.reopen(run.run_id)
    again.options({"lr": 0.2, "epochs": 8, "threads": 2})
    assert client.get_run(run.run_id).data.params == params | {"threads": "2"}
    again.finish()


def test_a_run_in_use_is_refused_in_one_line(client, other_process):
    _process, run_id = other_process
    with pytest.raises(UserError, match=f"run {run_id} is in use") as caught:
        tracking.reopen(run_id)
    assert "\n" not in str(caught.value)


def test_the_sweep_marks_dead_runs_and_leaves_live_ones(client, other_process):
    process, theirs = other_process
    mine = tracking.open_run("train_superclass", "mine")
    assert tracking.sweep(client) == []
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert tracking.sweep(client) == [theirs]
    assert (status(client, theirs), status(client, mine.run_id)) == ("KILLED", "RUNNING")
    assert "ended without finishing" in client.get_run(theirs).data.tags["taxon.reason"]
    mine.finish()


def test_the_sweep_leaves_the_run_that_mlflow_made_for_this_process(client, monkeypatch):
    made = client.create_run(client.get_experiment_by_name("taxon").experiment_id, tags={"taxon.host": provenance.host()}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    assert tracking.sweep(client) == []


def test_a_run_that_finished_since_the_search_is_not_marked(client, monkeypatch):
    run = tracking.open_run("train_superclass", "x")
    before = client.search_runs([client.get_experiment_by_name("taxon").experiment_id])
    run.finish()
    monkeypatch.setattr(client, "search_runs", lambda *args, **kwargs: before)
    assert tracking.sweep(client) == []
    assert status(client, run.run_id) == "FINISHED"


def test_a_machine_with_another_cache_is_another_host(client, monkeypatch, tmp_path):
    run = tracking.open_run("train_superclass", "x")
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "other user"))  # its locks are not ours: it cannot know that the run is alive
    assert tracking.sweep(client) == []
    run.finish()


def test_a_reopened_run_continues_without_a_second_copy_of_a_step(client):
    run = tracking.open_run("train_superclass", "x")
    for step in range(3):
        run.metrics({"loss": 1.0}, step)
    run.finish("KILLED", "interrupted")
    again = tracking.reopen(run.run_id)
    assert status(client, run.run_id) == "RUNNING"
    for step in range(1, 5):
        again.metrics({"loss": 1.0}, step)
    again.finish()
    assert steps(client, run.run_id, "loss") == [0, 1, 2, 3, 4]
    assert status(client, run.run_id) == "FINISHED"
    assert "taxon.reason" not in client.get_run(run.run_id).data.tags


def test_reopening_marks_the_run_only_under_its_lock(client):
    """Marked before, another command's sweep would end it: it is RUNNING and nobody holds its lock."""
    run = tracking.open_run("train_superclass", "x")
    run.finish("KILLED")
    with machine_lock(f"run {run.run_id}"), pytest.raises(UserError):
        tracking.reopen(run.run_id)
    assert status(client, run.run_id) == "KILLED"


def test_reopening_a_run_that_does_not_exist_is_one_line(client):
    with pytest.raises(UserError, match="run 'nothing' cannot be continued") as caught:
        tracking.reopen("nothing")
    assert "\n" not in str(caught.value)


def test_a_store_that_is_gone_at_the_end_does_not_hide_the_ending(client, monkeypatch, capsys):
    run = tracking.open_run("train_superclass", "x")

    def fail(*args):
        raise MlflowException("the store is down")

    monkeypatch.setattr(run.client, "set_terminated", fail)
    run.finish("FAILED", "a mistake")
    assert "could not be marked FAILED" in capsys.readouterr().err
    with machine_lock(f"run {run.run_id}", blocking=False) as free:
        assert free


def test_the_command_repeats_the_explicit_parameters(monkeypatch):
    monkeypatch.setattr(provenance, "_explicit", {})
    provenance.remember_parameters({"superclass_name": "my trees", "download": False})
    assert tracking.command_line("train_superclass") == "mlflow run . -e train_superclass -P 'superclass_name=my trees' -P download=false"


def test_the_command_shows_no_password(monkeypatch):
    monkeypatch.setattr(provenance, "_explicit", {"storage": "postgresql://me:pw@host/db"})
    assert tracking.command_line("tune_superclass") == "mlflow run . -e tune_superclass -P storage=postgresql://...@host/db"


def test_tags_of_a_child_may_be_numbers(client):
    with (
        tracking.open_run("tune_superclass", "study") as parent,
        tracking.open_child(parent.run_id, "trial", "train", {"taxon.trial": 3}) as one,
    ):
        assert client.get_run(one.run_id).data.tags["taxon.trial"] == "3"


def gone(client) -> dict[str, str]:
    """Return environment variables that point to what is not there, by a word for each."""
    deleted = client.create_experiment("gone")
    client.delete_experiment(deleted)
    run = client.create_run("0").info.run_id
    client.delete_run(run)
    return {
        "no such experiment": ("MLFLOW_EXPERIMENT_ID", "999"),
        "a name": ("MLFLOW_EXPERIMENT_ID", "taxon"),
        "a deleted experiment": ("MLFLOW_EXPERIMENT_ID", deleted),
        "a deleted experiment's name": ("MLFLOW_EXPERIMENT_NAME", "gone"),
        "a run of another store": ("MLFLOW_RUN_ID", "0123456789abcdef0123456789abcdef"),
        "no run id": ("MLFLOW_RUN_ID", "my run"),
        "a deleted run": ("MLFLOW_RUN_ID", run),
    }


@pytest.mark.parametrize(
    ("what", "remedy"),
    [
        ("no such experiment", "unset MLFLOW_EXPERIMENT_ID"),
        ("a name", "MLFLOW_EXPERIMENT_NAME"),
        ("a deleted experiment", "mlflow experiments restore --experiment-id"),
        ("a deleted experiment's name", "mlflow experiments restore --experiment-id"),
        ("a run of another store", "set MLFLOW_TRACKING_URI"),
        ("no run id", "unset MLFLOW_RUN_ID"),
        ("a deleted run", "mlflow runs restore --run-id"),
    ],
)
def test_what_the_environment_names_and_is_not_there_is_one_line(client, monkeypatch, what, remedy):
    name, value = gone(client)[what]
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=remedy) as caught:
        tracking.open_run("train_superclass", "x")
    line = str(caught.value)
    assert "\n" not in line and (name in line or "restore" in line) and "Traceback" not in line


@pytest.mark.parametrize(("asked", "after"), [("", [60.0]), ("true", [0.0]), ("false", [])])
def test_a_short_run_has_no_figures_of_the_machine(client, monkeypatch, asked, after):
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", asked)
    waits, told = [], []

    class Timer:
        daemon = False

        def __init__(self, seconds, work, given):
            waits.append(seconds)
            self.given = (work, given)

        def start(self):
            assert self.daemon

        def cancel(self):
            told.append(self.given)

    monkeypatch.setattr(tracking.threading, "Timer", Timer)
    with tracking.open_run("train_superclass", "digits") as run:
        run.monitor_system()
        assert not told
    assert waits == after and [given for _, given in told] == [[run.run_id]] * len(after)
