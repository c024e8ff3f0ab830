"""A tracking store of its own for every test that asks for one; no test ever touches the user's."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

# Importing MLflow's store and creating its tables takes seconds: done once, then copied.
MAKE = "from core.tracking import store; store.prepare()"
ROOT = str(Path(__file__).resolve().parents[2])


@pytest.fixture(scope="session")
def store_template(tmp_path_factory) -> Path:
    """Return a SQLite store that is new and empty."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/template.db"
    env = os.environ | {"MLFLOW_TRACKING_URI": uri, "TAXON_CACHE": str(folder / "cache"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run([sys.executable, "-c", MAKE], check=True, env=env | {"PYTHONPATH": ROOT}, capture_output=True)
    with closing(sqlite3.connect(folder / "template.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder / "template.db"


@pytest.fixture
def tracking_env(tmp_path, monkeypatch) -> Path:
    """Point tracking, cache and working folder into `tmp_path`, without a store there yet; return `tmp_path`."""
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def client(tracking_env, store_template):
    """Return the client of a fresh store whose experiment `taxon` keeps its artifacts in `tmp_path`."""
    from mlflow import MlflowClient

    shutil.copy(store_template, tracking_env / "mlflow.db")
    made = MlflowClient()
    made.create_experiment("taxon", artifact_location=f"file://{tracking_env}/artifacts")
    return made
