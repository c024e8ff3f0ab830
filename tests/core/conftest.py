"""A tracking store of its own for every test that asks for one; no test ever touches the user's."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

# Importing MLflow's store and creating its tables takes seconds: done once for all processes and versions of the code, then copied.
MAKE = "from core.tracking import store; store.prepare()"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def store_template() -> Path:
    """Return a SQLite store that is new and empty."""
    code = (ROOT / "core" / "tracking" / "store.py").read_bytes()
    name = hashlib.sha256(code + version("mlflow").encode()).hexdigest()[:16]
    kept = Path(tempfile.gettempdir()) / f"taxon-tests-{os.getuid()}"
    kept.mkdir(mode=0o700, exist_ok=True)
    if kept.stat().st_uid == os.getuid() and (kept / f"{name}.db").is_file():
        return kept / f"{name}.db"
    with tempfile.TemporaryDirectory(dir=kept) as folder:
        uri = f"sqlite:///{folder}/template.db"
        env = os.environ | {"MLFLOW_TRACKING_URI": uri, "TAXON_CACHE": f"{folder}/cache", "MLFLOW_DISABLE_TELEMETRY": "true"}
        subprocess.run([sys.executable, "-c", MAKE], check=True, env=env | {"PYTHONPATH": str(ROOT)}, capture_output=True)
        with closing(sqlite3.connect(f"{folder}/template.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        Path(folder, "template.db").replace(kept / f"{name}.db")
    return kept / f"{name}.db"


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
