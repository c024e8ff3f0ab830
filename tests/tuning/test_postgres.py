"""Several workers for real: one study on PostgreSQL, the MLflow server on the same database, workers killed at random moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from core.errors import UserError
from core.tracking import provenance
from tests.tuning.conftest import FINISHED
from tests.tuning.postgres import free_port, server
from tuning.storage import SCHEMA, open_storage

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("TAXON_KILL_SEED", "20241103"))
WORKERS, TRIALS, KILLS = 4, 40, 6
GUARD = 900.0  # seconds after which something hangs; no measure of speed


@pytest.fixture(scope="module")
def database() -> Any:
    with server() as address:
        yield address


@pytest.fixture(scope="module")
def tracking_server(database, tmp_path_factory) -> Any:
    """Return the address of an MLflow server on the same database."""
    tmp_path = tmp_path_factory.mktemp("server")
    port = free_port()
    words = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database.replace("://", "+psycopg://")]
    words += ["--artifacts-destination", str(tmp_path / "artifacts"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with open(tmp_path / "server.log", "w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, tmp_path / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + GUARD
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"the MLflow server did not start:\n{log.read_text()[-2000:]}")


class Crew:
    """Workers of one study, all of them with the same command."""

    def __init__(self, folder: Path, storage: str, tracking: str):
        self.folder, self.storage = folder, storage
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "TAXON_"))} | {
            "MLFLOW_TRACKING_URI": tracking,
            "TAXON_CACHE": str(folder / "cache"),
            "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
        }
        self.workers: list[subprocess.Popen] = []

    def start(self) -> None:
        """Start one more worker."""
        words = [
            f"--n_trials={TRIALS}",
            f"--storage={self.storage}",
            "--heartbeat=3",
            "--max_retries=9",
            "--pause=0.05",
            "--pruner_warmup=1",
        ]
        with open(self.folder / "log", "a") as log:
            command = [sys.executable, "-m", "tests.tuning.toy", *words]
            self.workers.append(
                subprocess.Popen(command, cwd=provenance.ROOT, env=self.env, stdout=log, stderr=log, start_new_session=True)
            )

    def kill(self, worker: subprocess.Popen) -> None:
        """Kill one worker with -9."""
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        self.workers.remove(worker)

    def said(self) -> str:
        """Return what the workers said."""
        return (self.folder / "log").read_text()


def study_of(storage: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rdb = open_storage(storage, 3).rdb
    (name,) = optuna.get_all_study_names(rdb)
    return optuna.load_study(study_name=name, storage=rdb)


def finished(storage: str) -> int:
    try:
        return len(study_of(storage).get_trials(deepcopy=False, states=FINISHED))
    except ValueError:  # no study yet
        return 0


def disturb(crew: Crew, draw: random.Random) -> None:
    """Kill a random worker when a random number of further trials have finished and some time has passed; start another."""
    marks = sorted(draw.sample(range(1, TRIALS - 4), KILLS))
    end = time.monotonic() + GUARD
    for mark in marks:
        while finished(crew.storage) < mark and time.monotonic() < end and any(worker.poll() is None for worker in crew.workers):
            time.sleep(0.1)
        time.sleep(draw.uniform(0.0, 0.4))
        running = [worker for worker in crew.workers if worker.poll() is None]
        assert running, crew.said()[-3000:]
        crew.kill(draw.choice(running))
        crew.start()


def test_workers_that_are_killed_and_started_again_finish_exactly_the_budget(database, tracking_server, tmp_path):
    crew, draw = Crew(tmp_path, database, tracking_server), random.Random(SEED)
    try:
        for _ in range(WORKERS):
            crew.start()
        disturb(crew, draw)
        assert [worker.wait(GUARD) for worker in crew.workers] == [0] * WORKERS, crew.said()[-3000:]
    finally:
        for worker in crew.workers:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
    study = study_of(database)
    trials = study.get_trials()
    assert len([trial for trial in trials if trial.state in FINISHED]) == TRIALS
    assert {trial.state for trial in trials} <= {*FINISHED, TrialState.FAIL}
    assert [trial.number for trial in trials] == list(range(len(trials)))
    roots = [trial.system_attrs.get("failed_trial", trial.number) for trial in trials if trial.state in FINISHED]
    assert len(set(roots)) == TRIALS
    _check_runs(MlflowClient(tracking_server), study)
    assert "Traceback" not in crew.said()


def _check_runs(client: MlflowClient, study: optuna.Study) -> None:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=5000)
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    (study_run,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert study.user_attrs["runs"] == [study_run.info.run_id] and study_run.info.status == "FINISHED"
    ended = [run.data.tags["taxon.trial"] for run in runs if run.data.tags.get("taxon.trial_state") and run.info.status == "FINISHED"]
    assert len(ended) == len(set(ended))
    by_id = {run.info.run_id: run for run in runs}
    for trial in study.get_trials(states=FINISHED):
        assert by_id[trial.user_attrs["run_id"]].info.status == "FINISHED"
    values = client.get_metric_history(study_run.info.run_id, "trial/toy")
    assert len(values) == len({metric.step for metric in values}) == TRIALS
    assert {item.path for item in client.list_artifacts(study_run.info.run_id)} >= {"best.json", "trials.csv", "study.json", "plots"}


def test_studies_live_in_a_schema_of_their_own_beside_mlflows_tables(database, tracking_server):
    import sqlalchemy

    storage = open_storage(database, 60)
    optuna.create_study(storage=storage.rdb, study_name="beside")
    names = sqlalchemy.inspect(storage.rdb.engine)
    assert "trials" in names.get_table_names(schema=SCHEMA) and "trials" not in names.get_table_names(schema="public")
    assert "runs" in names.get_table_names(schema="public")


def test_a_wrong_password_or_database_is_one_line_without_the_password(database):
    for address in (database.replace("taxon@", "taxon:s3cret@") + "_absent", database.replace("taxon@", "nobody:s3cret@")):
        with pytest.raises(UserError) as caught:
            open_storage(address, 60)
        assert "does not exist" in str(caught.value) and "s3cret" not in str(caught.value) and "\n" not in str(caught.value)


def test_the_lock_excludes_other_workers_and_ends_with_its_holder(database):
    hold = f"from tuning.storage import *\nwith open_storage('{database}', 60).lock('x'): print('held', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=provenance.ROOT)
    assert process.stdout.readline().strip() == "held"
    storage = open_storage(database, 60)
    with storage.lock("y"):
        pass
    began = time.monotonic()
    killer = subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {process.pid}"])
    with storage.lock("x"):
        assert time.monotonic() - began > 0.5
    killer.wait()
    process.wait()
