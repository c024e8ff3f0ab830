"""Where studies are kept: a SQLite file for the workers of one machine, PostgreSQL for workers of many."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage

from core.errors import Gone, UserError
from core.places import cache_home
from core.tracking.store import file_lock, without_password

T = TypeVar("T")
PATIENCE = 300.0  # seconds for which a storage may be out of reach
STORAGE_OUTAGES = (StorageInternalError, sqlalchemy.exc.OperationalError)
ANEW = "the same command makes it anew and takes over finished trials that are in the tracking store"
# Optuna and MLflow both keep their version in a table `alembic_version`: in one database each needs a schema of its own.
SCHEMA = "taxon_studies"
SESSION = f"-c search_path={SCHEMA} -c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
HOLD = 120  # seconds after which PostgreSQL takes a lock from a machine that fell silent
# A server has about 100 connections for all workers. One is kept by each; its heartbeat and its lock take one more each for a moment.
POOL = {"pool_size": 1, "max_overflow": 1, "pool_timeout": 60, "pool_pre_ping": True}
CROWDED = re.compile(r"too many (clients|connections)|connection slots are reserved")
LOCK_NOT_AVAILABLE = "55P03"
TURN = 5  # seconds for which a worker keeps a connection while it waits for a lock
QUEUE = 60.0  # seconds that a worker waits for a connection while the server has none free


class Storage:
    """An open storage: Optuna's tables, and a lock that all workers of the storage share; `close` gives its connections back.

    Args:
        rdb: Optuna's tables.
        lock: makes the context of a lock by its name.
        address: as the user gave it.
        path: the file of a SQLite storage; while the storage is open no other may take its place.
    """

    def __init__(self, rdb: RDBStorage, lock: Any, address: str, path: Path | None = None):
        self.rdb, self._lock, self.address, self.path = rdb, lock, address, path
        self._file = _identity(path)

    def lock(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold the lock `name` against every worker of this storage; it ends with its holder's process."""
        return self._lock(name)

    def close(self) -> None:
        """Give every connection back: an engine that is only forgotten keeps its own until the garbage collector comes by."""
        self.rdb.remove_session()
        self.rdb.engine.dispose()

    def patiently(self, work: Callable[[], T]) -> T:
        """Do what needs the storage; while it is out of reach try again for some minutes: a trial may have taken hours.

        Raises:
            Gone: its file or its tables were removed, for which no waiting helps.
        """
        end, delay = time.monotonic() + PATIENCE, 0.5
        while True:
            try:
                return work()
            except STORAGE_OUTAGES as error:
                self.require_tables(error)
                if time.monotonic() > end:
                    raise
            time.sleep(delay + int.from_bytes(os.urandom(1), "big") / 256)
            delay = min(2 * delay, 15.0)

    def require_tables(self, error: BaseException | None = None) -> None:
        """Raise Gone when the storage's file was removed or replaced, or `error` says that its tables were."""
        where = f"storage = '{without_password(self.address)}'"
        if _identity(self.path) != self._file:
            what = "replaced by another file" if self.path is not None and self.path.exists() else "removed"
            raise Gone(f"{where}: its file was {what} while a study was worked on; put it back, or {ANEW}") from None
        if error is not None and re.search(r"no such table|relation .* does not exist", str(error.__cause__ or error)):
            raise Gone(f"{where}: its tables were removed while a study was worked on; restore them, or {ANEW}") from None

    def require(self, study: optuna.Study) -> None:
        """Raise Gone when the study was deleted, or another of its name made, since it was loaded."""
        self.require_tables()
        try:
            found = self.rdb.get_study_id_from_name(study.study_name)
        except KeyError:
            found = None
        if found != study._study_id:
            what = "was deleted" if found is None else "was deleted and made anew"
            raise Gone(f"study '{study.study_name}' {what} while it was worked on; {ANEW}") from None

    @contextlib.contextmanager
    def deletion_named(self, study: optuna.Study) -> Iterator[None]:
        """Turn whatever a deleted study, or a storage that was removed, raises inside into one line; other errors pass as they are."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            self.require_tables(error)
            with contextlib.suppress(*STORAGE_OUTAGES):  # it does not answer: nothing is known of the study
                self.require(study)
            raise


def _identity(path: Path | None) -> tuple[int, int] | None:
    """Return what tells a file from another one at its place; None where there is none."""
    if path is None or not path.exists():
        return None
    status = path.stat()
    return status.st_dev, status.st_ino


def open_storage(address: str, heartbeat: int) -> Storage:
    """Open (and at the first time make) the storage at `address`; '' = `studies.db` in the cache.

    Raises:
        UserError: it is of another kind, out of reach, or holds something else. Passwords are never part of the message.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)  # heartbeats and retries; the version is pinned
    address = address or f"sqlite:///{cache_home()}/studies.db"
    try:
        if address.startswith("sqlite:///") and len(address) > len("sqlite:///"):
            return _open_sqlite(address, heartbeat)
        if address.startswith(("postgresql://", "postgresql+psycopg://")):
            return _open_postgresql(address, heartbeat)
    except Exception as error:  # the driver's, SQLAlchemy's and Optuna's own, as they come
        raise unusable(address, error) from None
    raise UserError(
        f"storage = '{without_password(address)}' is no storage of studies; give sqlite:///<file> or postgresql://user@host/database"
    )


def unusable(address: str, error: BaseException) -> UserError:
    """Return the one line about a storage that cannot be used (any more)."""
    said = _reason(address, error)
    remedy = "stop some workers or raise its max_connections" if CROWDED.search(said) else "mend it or start its server"
    return UserError(f"storage = '{without_password(address)}' cannot be used: {said}; {remedy}")


def _reason(address: str, error: BaseException) -> str:
    """Return the first thing the error says, without the password that some drivers quote."""
    error = error.__cause__ or error  # Optuna wraps what the database said
    said = " ".join(str(getattr(error, "orig", None) or error).split())[:200] or type(error).__name__
    try:
        password = sqlalchemy.engine.make_url(address).password
    except Exception:  # an address that cannot be taken apart may have its password anywhere in the message
        return "it is no address; write postgresql://user@host:port/database"
    return said.replace(str(password), "...") if password else said


def _open_sqlite(address: str, heartbeat: int) -> Storage:
    path = Path(address.removeprefix("sqlite:///")).expanduser().absolute()
    path.parent.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def lock(name: str) -> Iterator[None]:
        with file_lock(path.with_name(f"{path.name}.{sha256(name.encode()).hexdigest()[:8]}.lock")):
            yield

    with lock("open"):
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # several workers read while one writes
        return Storage(_tables(f"sqlite:///{path}", heartbeat, {"connect_args": {"timeout": 60}}), lock, address, path)


def _open_postgresql(address: str, heartbeat: int) -> Storage:
    url = "postgresql+psycopg://" + address.split("://", 1)[1]
    own = sqlalchemy.engine.make_url(url).query.get("options")  # a schema that the user chose
    connect = _connector(url, {"connect_timeout": 10} | ({} if own else {"options": SESSION}))
    engine = sqlalchemy.create_engine(url, creator=connect, poolclass=sqlalchemy.pool.NullPool)

    @contextlib.contextmanager
    def lock(name: str) -> Iterator[None]:
        number = int.from_bytes(sha256(f"taxon {name}".encode()).digest()[:8], "big", signed=True)
        with contextlib.ExitStack() as held:
            while not _locked(held.enter_context(engine.begin()), number):
                held.close()  # whoever has the lock may need this connection to go on
                time.sleep(0.5)
            yield

    with lock("open"):
        if not own:
            with engine.begin() as connection:
                connection.execute(sqlalchemy.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        return Storage(_tables(url, heartbeat, {"creator": connect} | POOL), lock, address)


def _locked(connection: sqlalchemy.Connection, number: int) -> bool:
    """Take an advisory lock that ends with the transaction; False when others kept it for `TURN` seconds."""
    connection.execute(sqlalchemy.text(f"SET LOCAL idle_in_transaction_session_timeout = '{HOLD}s'"))
    connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{TURN}s'"))
    try:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})
    except sqlalchemy.exc.OperationalError as error:
        if getattr(error.orig, "sqlstate", "") != LOCK_NOT_AVAILABLE:
            raise
        connection.rollback()
        return False
    return True


def _connector(url: str, given: dict[str, Any]) -> Callable[[], Any]:
    """Return what opens a connection; while the server has none free it tries again, ever more rarely, for up to `QUEUE` seconds."""
    import psycopg

    parsed = sqlalchemy.engine.make_url(url)
    arguments, named = parsed.get_dialect()().create_connect_args(parsed)

    def connect() -> Any:
        end, delay = time.monotonic() + QUEUE, 0.25
        while True:
            try:
                return psycopg.connect(*arguments, **{"application_name": "taxon study", **named, **given})
            except psycopg.OperationalError as error:
                if not CROWDED.search(str(error)) or time.monotonic() + delay > end:
                    raise
            time.sleep(delay * (1 + int.from_bytes(os.urandom(1), "big") / 256))  # workers must not all come back at once
            delay = min(2 * delay, 8.0)

    return connect


def _tables(url: str, heartbeat: int, engine: dict[str, Any]) -> RDBStorage:
    return RDBStorage(url.replace("{", "{{").replace("}", "}}"), engine, heartbeat_interval=heartbeat)
