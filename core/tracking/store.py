"""The tracking store: made once, safely, before anything runs in parallel; SQLite in WAL mode or a server, by MLFLOW_TRACKING_URI."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tempfile
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from core.errors import UserError

DEFAULT_URI = "sqlite:///mlflow.db"


def cache_home() -> Path:
    """Return the folder for what outlives a run but is no artifact: unpacked archives, work in progress, unsent metrics."""
    return Path(os.environ.get("TAXON_CACHE", "~/.cache/taxon")).expanduser()


@contextmanager
def machine_lock(name: str, blocking: bool = True):
    """Hold a lock that all processes of this machine share; without `blocking`, yield False when another holds it.

    The kernel drops the lock with its process, so a killed holder leaves nothing behind.
    """
    folder = cache_home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{sha256(name.encode()).hexdigest()[:32]}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def prepare() -> str:
    """Make sure that the store exists and can be written; return its URI. Safe when many processes start at once."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    uri = os.environ.setdefault("MLFLOW_TRACKING_URI", DEFAULT_URI)
    if uri.startswith("file:") or "://" not in uri:
        raise UserError(
            f"MLFLOW_TRACKING_URI = '{uri}' is a folder, which MLflow no longer accepts as a store; use {DEFAULT_URI} or a server's address"
        )
    with machine_lock(f"store {uri} {os.getcwd()}"):
        _reach(uri)
        if uri.startswith("sqlite:///"):
            _enable_wal(uri.removeprefix("sqlite:///"))
    return uri


def _reach(uri: str) -> None:
    """Open the store once; for SQLite this creates and migrates it while nobody else does."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except MlflowException as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"the tracking store '{uri}' cannot be used: {reason}; start the server or unset MLFLOW_TRACKING_URI") from None


def _enable_wal(path: str) -> None:
    """Switch a SQLite store to write-ahead logging (kept in the file): four writers take 16 s where they took 34-46 s."""
    if os.path.exists(path):
        with sqlite3.connect(path, timeout=60) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise UserError before work starts when `folder`'s disk lacks `needed` bytes for `what`."""
    folder = next(p for p in (folder, *folder.parents) if p.exists())
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise UserError(f"{what} needs {needed / 2**20:.0f} MiB in {folder}, which has {free / 2**20:.0f} MiB free; free some space there")


def scratch(prefix: str) -> Path:
    """Return a new private folder below the cache for files on their way into artifacts."""
    folder = cache_home() / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=folder))
