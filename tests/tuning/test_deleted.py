"""A study, its storage's file or its run removed while a worker is at it: one line that says so, at once, with exit code 2."""

from __future__ import annotations

import time
from pathlib import Path

import optuna
import pytest

from tests.tuning import toy

WORDS = ("--n_trials=4", "--pruner=none", "--n_startup_trials=3")


def during(monkeypatch, epoch: int, happens) -> None:
    """Let `happens()` come to pass once, when the second trial has trained this epoch."""
    told, trials = toy._tell, []

    def tell(run, at, value):
        if at == epoch:
            trials.append(run)
            if len(trials) == 2:
                happens(run)
        told(run, at, value)

    monkeypatch.setattr(toy, "_tell", tell)


def delete_study(bench) -> None:
    name = bench.study().study_name
    optuna.delete_study(study_name=name, storage=bench.storage)


def remove(bench) -> None:
    for path in Path(bench.folder, "cache").glob("studies.db*"):
        if not path.name.endswith(".lock"):
            path.unlink()


def replace(bench) -> None:
    remove(bench)
    optuna.create_study(study_name="other", storage=bench.storage)


@pytest.mark.parametrize("epoch", [2, 4])
def test_a_deleted_study_ends_its_worker_with_one_line(bench, monkeypatch, epoch):
    during(monkeypatch, epoch, lambda run: delete_study(bench))
    said = bench.refused(*WORDS)
    assert "was deleted while it was worked on; the same command makes it anew" in said
    reasons = [run.data.tags.get("taxon.reason", "") for run in bench.runs() if run.info.status == "FAILED"]
    assert len(reasons) == 2 and all("was deleted" in reason for reason in reasons)


@pytest.mark.parametrize(("happens", "what"), [(remove, "removed"), (replace, "replaced by another file")])
def test_a_storage_whose_file_is_gone_is_not_waited_for(bench, monkeypatch, happens, what):
    during(monkeypatch, 2, lambda run: happens(bench))
    began = time.monotonic()
    assert f"its file was {what} while a study was worked on" in bench.refused(*WORDS)
    assert time.monotonic() - began < 60  # an outage is waited for, for 300 s


def test_the_same_command_takes_over_the_trials_of_a_deleted_study(bench, monkeypatch):
    with monkeypatch.context() as patch:
        during(patch, 2, lambda run: delete_study(bench))
        bench.refused(*WORDS)
    bench.tune(*WORDS)
    assert len(bench.trained()) == len(set(bench.trained())) == 4 * 4  # 4 trials, no epoch twice


def test_a_study_whose_run_is_deleted_ends_with_the_way_back(bench, monkeypatch):
    during(monkeypatch, 4, lambda run: bench.client.delete_run(bench.study().user_attrs["runs"][0]))
    assert "mlflow runs restore --run-id" in bench.refused(*WORDS)


def test_a_trial_whose_run_is_deleted_is_not_taken_for_a_failure(bench, monkeypatch):
    during(monkeypatch, 2, lambda run: bench.client.delete_run(run.run_id))
    assert "mlflow runs restore --run-id" in bench.refused(*WORDS)
    bench.tune(*WORDS)
    assert sum(trial.state.name == "COMPLETE" for trial in bench.trials()) == 4
