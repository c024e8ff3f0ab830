"""Places to run commands in: a copy of the project that no editor changes meanwhile, and one pipeline that many tests look at."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from core.tracking import provenance
from tests.core.conftest import client, store_template, tracking_env  # noqa: F401  (fixtures)
from tests.entrypoints.place import TINY, Place, copy_of_the_code


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """Return a copy of the project's code: stage keys hold the code's digest, so it must not change during a test."""
    return copy_of_the_code(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def make_place(tmp_path_factory, project, store_template):  # noqa: F811
    """Return a function that makes a place with an empty store whose artifacts stay inside it."""

    def make(name: str) -> Place:
        place = Place(tmp_path_factory.mktemp(name), project)
        shutil.copy(store_template, place.folder / "mlflow.db")
        place.client.create_experiment("taxon", artifact_location=f"file://{place.folder}/artifacts")
        return place

    return make


@pytest.fixture(scope="session")
def pipeline(make_place, tmp_path_factory, project) -> Place:
    """Return the place where one whole tiny pipeline ran undisturbed through `mlflow run`: run once, and copied for other workers."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    with open(shared / "pipeline.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = shared / "pipeline.made"
        if made.is_file():
            return copied(Path(made.read_text()), shared / "pipeline.as_made", Place(tmp_path_factory.mktemp("pipeline"), project))
        place = make_place("pipeline")
        done = place.run(place.mlflow_command("pseudo_pipeline", **TINY))
        assert done.returncode == 0, done.stderr
        (place.folder / "said").write_text(done.stdout + done.stderr)
        # Tests go on in this place. By another process: closing a file takes this one's locks on it, and its store is open.
        subprocess.run(["cp", "-r", place.folder, shared / "pipeline.as_made"], check=True)
        made.write_text(str(place.folder))
        return place


def copied(origin: Path, kept: Path, place: Place) -> Place:
    """Fill a place, whose store nobody has open, with what was made at `origin` and copied to `kept`, as if it had been made here."""
    shutil.copytree(kept, place.folder, dirs_exist_ok=True)
    with contextlib.closing(sqlite3.connect(place.folder / "mlflow.db")) as store, store:
        for (table,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, kind, *_ in store.execute(f"PRAGMA table_info({table})").fetchall():
                if "CHAR" in kind or "TEXT" in kind:
                    replaced = f'UPDATE {table} SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?)'
                    store.execute(replaced, (str(origin), str(place.folder), str(origin)))
    return place


@pytest.fixture
def own_process_state(monkeypatch):
    """Keep pytest's signal handlers, remembered parameters and rank when an entry point's main() runs in this process."""
    monkeypatch.setattr(provenance, "_explicit", {})
    monkeypatch.delenv("RANK", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
