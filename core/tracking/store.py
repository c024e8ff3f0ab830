"""The tracking store: made once, safely, before anything runs in parallel; SQLite in WAL mode or a server, by MLFLOW_TRACKING_URI."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from urllib.request import getproxies

from core.errors import UserError
from core.places import cache_home, made, say, unwritable
from core.tracking import lifeline

DEFAULT_URI = "sqlite:///mlflow.db"
ROOT_VARIABLE = "_MLFLOW_SERVER_ARTIFACT_ROOT"  # what a client without a server takes as the root of new experiments' artifacts
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


@contextmanager
def machine_lock(name: str, blocking: bool = True) -> Iterator[bool]:
    """Hold a lock that all processes of this machine share; without `blocking`, yield False when another holds it.

    The kernel drops the lock with its process, so a killed holder leaves nothing behind.
    """
    with file_lock(cache_home() / "locks" / f"{sha256(name.encode()).hexdigest()[:32]}.lock", blocking) as held:
        yield held


@contextmanager
def file_lock(path: Path, blocking: bool = True) -> Iterator[bool]:
    """Hold the lock of a file that is made for it; without `blocking`, yield False when another holds it."""
    with _lock_file(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _lock_file(path: Path) -> IO[bytes]:
    """Open a lock's file; one that another user made need only be readable."""
    made(path.parent)
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        try:
            return open(os.open(path, flags | os.O_CLOEXEC, 0o666), "rb")
        except PermissionError as error:
            refused = error
    raise UserError(f"the lock '{path}' cannot be opened ({refused.strerror}); set TAXON_CACHE to a folder that can be written")


def prepare() -> str:
    """Make sure that the store exists and can be written; return its URI. Safe when many processes start at once."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    if uri.startswith("file:") or "://" not in uri:
        raise UserError(
            f"MLFLOW_TRACKING_URI = '{uri}' is a folder, which MLflow no longer accepts as a store; use {DEFAULT_URI} or a server's address"
        )
    path = ""
    if uri.startswith("sqlite"):
        uri, path = _found(uri)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    with machine_lock(f"store {path or uri}"):
        _look(uri, path)
        _place_artifacts(uri, path)
        _reach(uri)
        if path:
            _enable_wal(path)
    return uri


def _found(uri: str) -> tuple[str, str]:
    """Return a SQLite store's address with an absolute path, and that path: children may work in other folders.

    `mlflow run <project>` starts its command in the project's folder, but opened the run in the store below its own.
    """
    from sqlalchemy.engine import make_url

    try:
        parsed = make_url(uri)
    except Exception as error:  # SQLAlchemy's own, of several kinds
        raise _unusable(uri, error) from None
    if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
        raise UserError(f"MLFLOW_TRACKING_URI = '{uri}' names no file that other processes can open; use sqlite:///<path of a file>")
    name = os.path.expanduser(parsed.database)
    path = os.path.abspath(name)
    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        path = next((place for place in places_of(name) if _holds_run(place, run_id)), path)
    return parsed.set(database=path).render_as_string(hide_password=False), path


def places_of(name: str) -> list[str]:
    """Return where a SQLite file called `name` may lie: below this folder, or those of the processes that started this one."""
    return [os.path.abspath(os.path.join(folder, name)) for folder in (os.getcwd(), *lifeline.launcher_folders())]


def _holds_run(path: str, run_id: str) -> bool:
    """Say whether a database file has a run; a file that is none is left as it is."""
    try:
        with closing(sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
            return bool(connection.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone())
    except sqlite3.Error:
        return False


def _place_artifacts(uri: str, path: str) -> None:
    """Choose where MLflow keeps artifacts of new experiments when the working folder, its own choice, cannot be written."""
    if uri.startswith("http") or ROOT_VARIABLE in os.environ or not unwritable(Path.cwd()):
        return
    root = (Path(path).parent if path else cache_home()) / "mlruns"
    os.environ[ROOT_VARIABLE] = str(made(root))
    say(f"the working folder {Path.cwd()} cannot be written; artifacts of new experiments go to {root}")


def _look(uri: str, path: str) -> None:
    """Find out quickly that a store cannot be used: MLflow itself tries a damaged file or a dead server for minutes."""
    try:
        if path:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with closing(sqlite3.connect(path, timeout=60)) as connection:
                connection.isolation_level = None
                connection.execute("BEGIN IMMEDIATE")  # readable, writable, and a database
                connection.execute("ROLLBACK")
        elif not (uri.startswith("http") and getproxies()):
            address = urlsplit(uri)
            port = address.port or PORTS.get(address.scheme.split("+")[0])
            if address.hostname and port:
                socket.create_connection((address.hostname, port), timeout=10).close()
    except (sqlite3.Error, OSError, ValueError) as error:
        raise _unusable(uri, error) from None


def _unusable(uri: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        f"the tracking store '{without_password(uri)}' cannot be used: {reason}; mend it, start it or set another MLFLOW_TRACKING_URI"
    )


def without_password(uri: str) -> str:
    """Return an address as it may be printed: what stands before its last @, and a password among its options, left out."""
    return re.sub(r"(password=)[^&]*", r"\1...", re.sub(r"//.*@", "//...@", uri))


def _reach(uri: str) -> None:
    """Open the store once; for SQLite this creates and migrates it while nobody else does."""
    from mlflow import MlflowClient

    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except Exception as error:  # MLflow's own, and SQLAlchemy's as they are
        raise _unusable(uri, error) from None


def _enable_wal(path: str) -> None:
    """Switch a SQLite store to write-ahead logging (kept in the file): four writers take 16 s where they took 34-46 s."""
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise UserError before work starts when `folder`'s disk lacks `needed` bytes for `what`."""
    folder = next(p for p in (folder, *folder.parents) if p.exists())
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise UserError(f"{what} needs {needed / 2**20:.0f} MiB in {folder}, which has {free / 2**20:.0f} MiB free; free some space there")


def scratch(prefix: str) -> Path:
    """Return a new private folder below the cache for files on their way into artifacts."""
    folder = made(cache_home() / "tmp")
    return Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=folder))
