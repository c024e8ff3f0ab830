"""Kill -9 of a worker: its trial is continued from its checkpoint with the same values, and nothing stays RUNNING."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import ExitStack, closing

import optuna
import pytest
from optuna.trial import TrialState

from tests.tuning.conftest import FINISHED
from tuning.storage import open_storage

WORDS = ("--n_trials=6", "--pruner=none", "--pause=0.05")


def wait_until(true, process, seconds: float = 120.0) -> None:
    """Wait for something that a worker does."""
    end = time.monotonic() + seconds
    while not true() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert true(), "the worker ended or did nothing"


def nothing_runs(bench) -> None:
    assert {trial.state for trial in bench.trials()} <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    assert {run.info.status for run in bench.runs()} <= {"FINISHED", "KILLED"}


def killed_in_epoch_three(bench, *words: str, **env: str) -> None:
    process = bench.start(*WORDS, "--broken=kill", *words, **env)
    assert process.wait(300) == -signal.SIGKILL


def test_a_trial_continues_from_its_checkpoint_with_the_same_values(bench):
    killed_in_epoch_three(bench)
    (dead,) = bench.trials()
    assert dead.state == TrialState.RUNNING and len(dead.intermediate_values) == 2
    bench.tune(*WORDS, "--broken=kill")  # at once: on one machine nobody waits for a heartbeat
    failed, again = bench.trials()[:2]
    assert (failed.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert again.params == dead.params and again.system_attrs["retry_history"] == [0]
    epochs = [epoch for run, epoch in bench.trained() if run == again.user_attrs["run_id"]]
    assert epochs == [3, 4]
    assert again.intermediate_values.keys() == {1, 2, 3, 4}
    assert bench.client.get_run(dead.user_attrs["run_id"]).info.status == "KILLED"
    assert len(bench.trials(FINISHED)) == 6
    nothing_runs(bench)
    row = bench.table().iloc[0]
    assert row["state"] == "FAIL" and "its worker died" in row["reason"]


def test_the_values_after_a_kill_are_those_of_an_undisturbed_study(bench):
    killed_in_epoch_three(bench)
    bench.tune(*WORDS, "--broken=kill")
    disturbed = [trial.params for trial in bench.trials(FINISHED)]
    bench.tune(*WORDS, "--broken=kill", f"--storage=sqlite:///{bench.folder}/whole.db")
    whole = [trial.params for trial in bench.study(f"sqlite:///{bench.folder}/whole.db").trials]
    assert disturbed == whole


def test_the_studys_run_is_taken_up_again_and_ends_finished(bench):
    killed_in_epoch_three(bench)
    first = bench.study_run()
    assert first.info.status == "RUNNING"
    bench.tune(*WORDS, "--broken=kill")
    assert bench.study().user_attrs["runs"] == [first.info.run_id]
    study_run = bench.study_run()
    assert study_run.info.status == "FINISHED" and "taxon.reason" not in study_run.data.tags
    assert bench.artifact(study_run, "best.json").exists()


def test_a_machine_that_fell_silent_is_noticed_by_its_heartbeat(bench):
    storage = f"--storage=sqlite:///{bench.folder}/shared.db"
    (bench.folder / "elsewhere").mkdir()  # another cache is another machine: its locks say nothing here
    killed_in_epoch_three(bench, storage, "--heartbeat=1", TAXON_CACHE=str(bench.folder / "elsewhere"))
    (bench.folder / "cache").mkdir(exist_ok=True)
    (bench.folder / "cache" / "killed").touch()
    bench.tune(*WORDS, "--broken=kill", storage, "--heartbeat=1")
    study = bench.study(f"sqlite:///{bench.folder}/shared.db")
    assert len(study.get_trials(states=FINISHED)) == 6 and study.get_trials(states=(TrialState.RUNNING,)) == []
    (retried,) = [trial for trial in study.trials if trial.system_attrs.get("retry_history")]
    assert retried.params == study.trials[0].params
    assert bench.client.get_run(study.trials[0].user_attrs["run_id"]).info.status == "KILLED"


def test_a_trial_that_kills_its_workers_is_given_up(bench):
    killed_in_epoch_three(bench, "--max_retries=0")
    bench.tune(*WORDS, "--broken=kill", "--max_retries=0")
    assert bench.trials()[0].state == TrialState.FAIL
    assert not any("retry_history" in trial.system_attrs for trial in bench.trials())
    assert "its worker died 1 times" in bench.table().iloc[0]["reason"]
    assert len(bench.trials(FINISHED)) == 6


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_trial_is_handed_back_and_that_is_no_death(bench, sign):
    process = bench.start(*WORDS, "--pause=0.5", "--max_retries=0")
    wait_until((bench.folder / "cache" / "trained").exists, process)
    process.send_signal(sign)
    assert process.wait(120) == 130
    assert bench.trials((TrialState.RUNNING,)) == []
    (interrupted,) = bench.trials((TrialState.FAIL,))
    bench.tune(*WORDS, "--max_retries=0")
    (retried,) = [trial for trial in bench.trials() if trial.system_attrs.get("retry_history")]
    assert retried.params == interrupted.params and retried.state == TrialState.COMPLETE
    assert len(bench.trials(FINISHED)) == 6
    nothing_runs(bench)


def stop_within_a_trial(bench, process, address: str) -> int:
    """Stop a worker while this process has every lock that workers share, so that the stopped one has none; return its trial's number.

    A worker that is stopped while it writes would keep SQLite's lock, and all others would wait for it: another thing than being slow.
    """
    while process.poll() is None:
        with ExitStack() as held:
            storage = held.enter_context(closing(open_storage(address, 1)))
            (name,) = optuna.get_all_study_names(storage.rdb)
            for lock in (name, f"{name} report"):
                held.enter_context(storage.lock(lock))
            for path in (address.removeprefix("sqlite:///"), bench.folder / "mlflow.db"):
                connection = held.enter_context(closing(sqlite3.connect(path, timeout=60, isolation_level=None)))
                connection.execute("BEGIN IMMEDIATE")
            running = optuna.load_study(study_name=name, storage=storage.rdb).get_trials(states=(TrialState.RUNNING,))
            if running:
                os.kill(process.pid, signal.SIGSTOP)
                return running[0].number
        time.sleep(0.1)  # it was between two trials
    raise AssertionError("the worker ended before it was stopped")


def test_a_worker_that_was_only_slow_does_not_count_twice(bench):
    """A stopped worker is taken for dead; when it goes on, its trial is another's, and the budget still holds."""
    address = f"sqlite:///{bench.folder}/shared.db"
    words = ("--n_trials=3", "--pruner=none", "--heartbeat=1", f"--storage={address}")
    process = bench.start(*words, "--pause=0.3", TAXON_CACHE=str(bench.folder / "elsewhere"))
    wait_until((bench.folder / "elsewhere" / "trained").exists, process)
    slow = stop_within_a_trial(bench, process, address)
    bench.tune(*words)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(120) == 0
    study = bench.study(address)
    assert len(study.get_trials(states=FINISHED)) == 3 and study.get_trials(states=(TrialState.RUNNING,)) == []
    assert study.trials[slow].state == TrialState.FAIL
    assert [trial.system_attrs.get("retry_history") for trial in study.trials].count([slow]) == 1
    assert {run.info.status for run in bench.runs()} <= {"FINISHED", "KILLED"}


def test_workers_side_by_side_share_the_budget(bench):
    bench.tune("--n_trials=1", "--pruner=none")  # the store's first write is not what is tested
    processes = [bench.start("--n_trials=9", "--pruner=none", "--pause=0.02") for _ in range(3)]
    assert [process.wait(300) for process in processes] == [0, 0, 0], (bench.folder / "log").read_text()
    trials = bench.trials()
    assert [trial.number for trial in trials] == list(range(9)) and {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len({trial.params["x"] for trial in trials}) == 9
    steps = [metric.step for metric in bench.client.get_metric_history(bench.study_run().info.run_id, "trial/toy")]
    assert sorted(steps) == list(range(9))
    nothing_runs(bench)
