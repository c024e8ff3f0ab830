"""Several workers for real: one study on PostgreSQL, the MLflow server on the same database, workers killed at random moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
import sqlalchemy
from mlflow import MlflowClient
from optuna.trial import TrialState

from core.errors import UserError
from core.tracking import provenance
from tests.tuning import toy
from tests.tuning.conftest import FINISHED
from tests.tuning.postgres import free_port, server
from tuning import storage as storages
from tuning.storage import SCHEMA, Storage, open_storage

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


@pytest.fixture
def storage(database) -> Iterator[Storage]:
    """Return the open storage: one, whose connections are given back."""
    with closing(open_storage(database, 3)) as found:
        yield found


def study_of(storage: Storage) -> optuna.Study:
    (name,) = optuna.get_all_study_names(storage.rdb)
    return optuna.load_study(study_name=name, storage=storage.rdb)


def finished(storage: Storage) -> int:
    try:
        return len(study_of(storage).get_trials(deepcopy=False, states=FINISHED))
    except ValueError:  # no study yet
        return 0


def disturb(crew: Crew, storage: Storage, draw: random.Random) -> None:
    """Kill a random worker when a random number of further trials have finished and some time has passed; start another."""
    marks = sorted(draw.sample(range(1, TRIALS - 4), KILLS))
    end = time.monotonic() + GUARD
    for mark in marks:
        while finished(storage) < mark and time.monotonic() < end and any(worker.poll() is None for worker in crew.workers):
            time.sleep(0.1)
        time.sleep(draw.uniform(0.0, 0.4))
        running = [worker for worker in crew.workers if worker.poll() is None]
        assert running, crew.said()[-3000:]
        crew.kill(draw.choice(running))
        crew.start()


def test_workers_that_are_killed_and_started_again_finish_exactly_the_budget(database, storage, tracking_server, tmp_path):
    crew, draw = Crew(tmp_path, database, tracking_server), random.Random(SEED)
    try:
        for _ in range(WORKERS):
            crew.start()
        disturb(crew, storage, draw)
        assert [worker.wait(GUARD) for worker in crew.workers] == [0] * WORKERS, crew.said()[-3000:]
    finally:
        for worker in crew.workers:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
    study = study_of(storage)
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
    by_id = {run.info.run_id: run for run in runs}
    (study_run,) = [by_id[run_id] for run_id in study.user_attrs["runs"]]
    assert study_run.info.status == "FINISHED" and "mlflow.parentRunId" not in study_run.data.tags
    # A worker that is killed before it has opened the storage does not know its study: its run stays beside it, and only as KILLED.
    alone = [run for run in runs if "mlflow.parentRunId" not in run.data.tags and run is not study_run]
    assert {run.info.status for run in alone} <= {"KILLED"} and not any("taxon.study" in run.data.tags for run in alone)
    assert not {run.data.tags.get("mlflow.parentRunId") for run in runs} & {run.info.run_id for run in alone}
    assert len(alone) <= KILLS
    ended = [run.data.tags["taxon.trial"] for run in runs if run.data.tags.get("taxon.trial_state") and run.info.status == "FINISHED"]
    assert len(ended) == len(set(ended))
    for trial in study.get_trials(states=FINISHED):
        assert by_id[trial.user_attrs["run_id"]].info.status == "FINISHED"
    values = client.get_metric_history(study_run.info.run_id, "trial/toy")
    assert len(values) == len({metric.step for metric in values}) == TRIALS
    assert {item.path for item in client.list_artifacts(study_run.info.run_id)} >= {"best.json", "trials.csv", "study.json", "plots"}


def test_studies_live_in_a_schema_of_their_own_beside_mlflows_tables(storage, tracking_server):
    optuna.create_study(storage=storage.rdb, study_name="beside")
    names = sqlalchemy.inspect(storage.rdb.engine)
    assert "trials" in names.get_table_names(schema=SCHEMA) and "trials" not in names.get_table_names(schema="public")
    assert "runs" in names.get_table_names(schema="public")


def test_a_wrong_password_or_database_is_one_line_without_the_password(database):
    for address in (database.replace("taxon@", "taxon:s3cret@") + "_absent", database.replace("taxon@", "nobody:s3cret@")):
        with pytest.raises(UserError) as caught:
            open_storage(address, 60)
        assert "does not exist" in str(caught.value) and "s3cret" not in str(caught.value) and "\n" not in str(caught.value)


def test_the_lock_excludes_other_workers_and_ends_with_its_holder(database, storage):
    hold = f"from tuning.storage import *\nwith open_storage('{database}', 60).lock('x'): print('held', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=provenance.ROOT)
    assert process.stdout.readline().strip() == "held"
    with storage.lock("y"):
        pass
    began = time.monotonic()
    killer = subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {process.pid}"])
    with storage.lock("x"):
        assert time.monotonic() - began > 0.5
    killer.wait()
    process.wait()


@pytest.fixture
def narrow(database) -> Iterator[str]:
    """Return the address of a database whose only user may have 3 connections: those of one worker."""
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("CREATE ROLE narrow LOGIN CONNECTION LIMIT 3")
        admin.execute("CREATE DATABASE narrow OWNER narrow")
        yield database.replace("taxon@", "narrow@").removesuffix("taxon") + "narrow"
        admin.execute("DROP DATABASE narrow WITH (FORCE)")
        admin.execute("DROP ROLE narrow")


def connections(database: str, user: str) -> int:
    with psycopg.connect(database) as admin:
        return admin.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", [user]).fetchone()[0]


def test_a_worker_works_with_three_connections_keeps_one_and_gives_all_back(bench, database, narrow, monkeypatch):
    kept = []
    monkeypatch.setattr(storages, "QUEUE", 0.0)  # a fourth would be refused, and nobody waits for it
    monkeypatch.setattr(toy, "_trained", lambda run, epoch: kept.append(connections(database, "narrow")))
    bench.tune("--n_trials=2", f"--storage={narrow}", "--heartbeat=1", "--pause=0.4", "--pruner=none")
    assert len(kept) == 8 and set(kept) <= {1, 2} and 1 in kept
    assert connections(database, "narrow") == 0


def test_a_worker_waits_while_the_server_has_no_connection_free(database, narrow):
    crowd = [psycopg.connect(narrow) for _ in range(3)]
    leaving = threading.Timer(1.0, lambda: [one.close() for one in crowd])
    leaving.start()
    with closing(open_storage(narrow, 60)) as found:
        assert optuna.get_all_study_names(found.rdb) == []
    leaving.join()


def test_a_worker_that_waited_in_vain_says_so_in_one_line(narrow, monkeypatch):
    monkeypatch.setattr(storages, "QUEUE", 0.6)
    crowd = [psycopg.connect(narrow) for _ in range(3)]
    with pytest.raises(UserError) as caught:
        open_storage(narrow, 60)
    assert "too many connections" in str(caught.value) and "max_connections" in str(caught.value) and "\n" not in str(caught.value)
    for one in crowd:
        one.close()


def test_waiting_for_a_lock_takes_no_connection_from_its_holder(database, narrow, monkeypatch):
    """One holds the lock and needs a second connection; two who wait for the lock have the others."""
    monkeypatch.setattr(storages, "TURN", 1)
    with closing(open_storage(narrow, 60)) as holder:
        holder.close()
        waiting = [threading.Thread(target=_lock_once, args=(holder,)) for _ in range(2)]
        with holder.lock("x"):
            for one in waiting:
                one.start()
            while connections(database, "narrow") < 3:
                time.sleep(0.05)
            assert optuna.get_all_study_names(holder.rdb) == []
        for one in waiting:
            one.join(60)
            assert not one.is_alive()


def _lock_once(storage: Storage) -> None:
    with storage.lock("x"):
        pass


@pytest.mark.parametrize(
    "said",
    [
        "FATAL:  sorry, too many clients already",
        'FATAL:  too many connections for role "me"',
        'FATAL:  too many connections for database "studies"',
        "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
    ],
)
def test_every_way_in_which_postgresql_says_that_it_is_full_is_known(said):
    assert storages.CROWDED.search(said)
