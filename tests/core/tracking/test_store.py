"""The store is made once and safely, and what is wrong with it is said at once, in one line."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy

from core.errors import UserError
from core.tracking import lifeline, store

ROOT = str(Path(__file__).resolve().parents[3])
HOLD = """
import time
from core.tracking.store import machine_lock
with machine_lock("x"):
    print("held", flush=True)
    time.sleep(60)
"""


def refusal(monkeypatch, uri: str) -> str:
    """Return the line with which a store is refused."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError) as caught:
        store.prepare()
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_prepared_store_is_in_wal_mode(client, tracking_env):
    assert store.prepare() == os.environ["MLFLOW_TRACKING_URI"]
    with closing(sqlite3.connect(tracking_env / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "file:///tmp/mlruns", "file:mlruns"])
def test_a_folder_is_no_store(tracking_env, monkeypatch, uri):
    assert f"MLFLOW_TRACKING_URI = '{uri}'" in refusal(monkeypatch, uri)
    assert "sqlite:///mlflow.db" in refusal(monkeypatch, uri)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_does_not_answer_is_named_without_its_password(tracking_env, monkeypatch, scheme):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    line = refusal(monkeypatch, f"{scheme}://me:secret@127.0.0.1:{unused_port()}/mlflow")
    assert "cannot be used" in line and "refused" in line
    assert "secret" not in line


def test_a_file_that_is_no_database_is_refused_before_mlflow_retries_for_minutes(tracking_env, monkeypatch):
    (tracking_env / "notes.db").write_text("these are my notes, " * 100)
    assert "not a database" in refusal(monkeypatch, f"sqlite:///{tracking_env}/notes.db")


def test_a_folder_that_cannot_be_made_is_refused(tracking_env, monkeypatch):
    (tracking_env / "taken").write_text("")
    assert "cannot be used" in refusal(monkeypatch, f"sqlite:///{tracking_env}/taken/mlflow.db")


def test_telemetry_is_off_as_soon_as_mlflow_is_imported():
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_DISABLE_TELEMETRY"}
    code = "import core.tracking.store, os; print(os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "true"


def test_require_space_names_the_need_and_the_place(tmp_path):
    store.require_space(tmp_path / "not" / "yet", 1, "a checkpoint")
    with pytest.raises(UserError, match=r"a checkpoint needs \d+ MiB in .* MiB free"):
        store.require_space(tmp_path / "not" / "yet", 1 << 60, "a checkpoint")


def test_a_lock_is_seen_by_others_and_free_afterwards(tracking_env):
    with store.machine_lock("x") as first, store.machine_lock("x", blocking=False) as second, store.machine_lock("y") as other:
        assert (first, second, other) == (True, False, True)
    with store.machine_lock("x", blocking=False) as again:
        assert again


def test_a_killed_process_leaves_no_lock(tracking_env):
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env=python_path())
    assert holder.stdout.readline() == "held\n"
    with store.machine_lock("x", blocking=False) as mine:
        assert not mine
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with store.machine_lock("x", blocking=False) as mine:
        assert mine


@pytest.mark.slow
def test_four_processes_at_once_on_a_new_store_succeed(tracking_env):
    """Unlocked, every one of them fails: MLflow's migrations race."""
    code = "from core.tracking import store, run; store.prepare(); run.open_run('train_superclass', 'one').finish()"
    started = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=python_path()) for _ in range(4)]
    outcomes = [(process.communicate()[1], process.returncode) for process in started]
    assert [code for _, code in outcomes] == [0] * 4, outcomes
    from mlflow import MlflowClient

    found = MlflowClient().get_experiment_by_name("taxon")
    assert len(MlflowClient().search_runs([found.experiment_id])) == 4


def python_path() -> dict[str, str]:
    """Return an environment in which a process that starts elsewhere finds this project."""
    from core.tracking.provenance import ROOT

    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:pw@host/db", "postgresql://...@host/db"),
        ("postgresql://me:p@w/x@host:1/db", "postgresql://...@host:1/db"),
        ("postgresql://host/db?user=me&password=pw&sslmode=off", "postgresql://host/db?user=me&password=...&sslmode=off"),
        ("sqlite:///a.db", "sqlite:///a.db"),
    ],
)
def test_addresses_are_shown_without_their_password(address, shown):
    assert store.without_password(address) == shown


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("sqlite:///{}/mlflow.db?timeout=30", "mlflow.db"),
        ("sqlite:///{}/my%20runs.db", "my runs.db"),
        ("sqlite:///{}/my runs.db", "my runs.db"),
        ("sqlite:///sub/mlflow.db", "sub/mlflow.db"),
        ("sqlite+pysqlite:///{}/a.db", "a.db"),
    ],
)
def test_the_file_that_is_looked_at_is_the_one_that_mlflow_opens(tracking_env, monkeypatch, address, file):
    opened = []
    monkeypatch.setattr(store, "_reach", opened.append)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format(tracking_env))
    uri = store.prepare()
    assert opened == [uri] == [os.environ["MLFLOW_TRACKING_URI"]]
    with closing(sqlite3.connect(tracking_env / file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert sqlalchemy.engine.make_url(uri).database == str(tracking_env / file)
    assert ("timeout=30" in uri) == ("timeout=30" in address)
    left = [path.name for path in tracking_env.rglob("*.db*")]
    assert left == [Path(file).name]


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x.db?uri=true", "sqlite://host/x.db"])
def test_a_database_that_no_other_process_can_open_is_refused(tracking_env, monkeypatch, uri):
    assert "MLFLOW_TRACKING_URI" in refusal(monkeypatch, uri)


def test_an_empty_address_is_the_default(tracking_env, monkeypatch):
    monkeypatch.setattr(store, "_reach", lambda uri: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert store.prepare() == f"sqlite:///{tracking_env}/mlflow.db"


def test_a_relative_store_of_mlflow_run_lies_below_its_own_folder(client, tracking_env, monkeypatch):
    run = client.create_run("0").info.run_id
    (tracking_env / "project").mkdir()
    monkeypatch.chdir(tracking_env / "project")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db?timeout=30")
    monkeypatch.setenv("MLFLOW_RUN_ID", run)
    monkeypatch.setattr(lifeline, "launcher_folders", lambda: ["/", str(tracking_env)])
    assert store.prepare() == f"sqlite:///{tracking_env}/mlflow.db?timeout=30"
    assert list((tracking_env / "project").glob("mlflow.db*")) == []


def test_a_launchers_folder_is_found():
    code = "import sys; from core.tracking import lifeline; print(lifeline.launcher_folders()[0])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/", env=os.environ | {"PYTHONPATH": ROOT}
    )
    assert done.stdout.strip() == os.getcwd()


def test_a_working_folder_that_cannot_be_written_has_its_artifacts_beside_the_database(tracking_env, monkeypatch, capsys):
    monkeypatch.setattr(store, "_reach", lambda uri: None)
    monkeypatch.setenv(store.ROOT_VARIABLE, "")  # so that it is taken back
    monkeypatch.delenv(store.ROOT_VARIABLE)
    (tracking_env / "kept").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracking_env}/kept/mlflow.db")
    monkeypatch.chdir("/proc")
    store.prepare()
    assert os.environ[store.ROOT_VARIABLE] == str(tracking_env / "kept" / "mlruns")
    assert f"go to {tracking_env}/kept/mlruns" in capsys.readouterr().err


def test_a_lock_that_another_user_made_is_held_by_reading_it(tracking_env, monkeypatch):
    real = os.open

    def only_reading(path, flags, mode=0o777):
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied")
        return real(path, flags, mode)

    (tracking_env / "a.lock").write_text("")
    monkeypatch.setattr(os, "open", only_reading)
    with store.file_lock(tracking_env / "a.lock") as held, store.file_lock(tracking_env / "a.lock", blocking=False) as again:
        assert held and not again
