"""Where studies are kept: a SQLite file for the workers of one machine, PostgreSQL for workers of many."""

from __future__ import annotations

import contextlib
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage

from core.errors import UserError
from core.tracking.store import cache_home, file_lock, without_password

# Optuna and MLflow both keep their version in a table `alembic_version`: in one database each needs a schema of its own.
SCHEMA = "taxon_studies"
SESSION = f"-c search_path={SCHEMA} -c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
HOLD = 120  # seconds after which PostgreSQL takes a lock from a machine that fell silent


class Storage:
    """An open storage: Optuna's tables, and a lock that all workers of the storage share."""

    def __init__(self, rdb: RDBStorage, lock: Any):
        self.rdb, self._lock = rdb, lock

    def lock(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold the lock `name` against every worker of this storage; it ends with its holder's process."""
        return self._lock(name)


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
            return _open_sqlite(Path(address.removeprefix("sqlite:///")).expanduser().absolute(), heartbeat)
        if address.startswith(("postgresql://", "postgresql+psycopg://")):
            return _open_postgresql("postgresql+psycopg://" + address.split("://", 1)[1], heartbeat)
    except Exception as error:  # the driver's, SQLAlchemy's and Optuna's own, as they come
        raise UserError(
            f"storage = '{without_password(address)}' cannot be used: {_reason(address, error)}; mend it or start its server"
        ) from None
    raise UserError(
        f"storage = '{without_password(address)}' is no storage of studies; give sqlite:///<file> or postgresql://user@host/database"
    )


def _reason(address: str, error: Exception) -> str:
    """Return the first thing the error says, without the password that some drivers quote."""
    said = " ".join(str(getattr(error, "orig", None) or error).split())[:200] or type(error).__name__
    try:
        password = sqlalchemy.engine.make_url(address).password
    except Exception:  # an address that cannot be taken apart may have its password anywhere in the message
        return "it is no address; write postgresql://user@host:port/database"
    return said.replace(str(password), "...") if password else said


def _open_sqlite(path: Path, heartbeat: int) -> Storage:
    path.parent.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def lock(name: str) -> Iterator[None]:
        with file_lock(path.with_name(f"{path.name}.{sha256(name.encode()).hexdigest()[:8]}.lock")):
            yield

    with lock("open"):
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # several workers read while one writes
        return Storage(_tables(f"sqlite:///{path}", heartbeat, {"connect_args": {"timeout": 60}}), lock)


def _open_postgresql(url: str, heartbeat: int) -> Storage:
    own = sqlalchemy.engine.make_url(url).query.get("options")  # a schema that the user chose
    connect = {"connect_timeout": 10} if own else {"connect_timeout": 10, "options": SESSION}
    engine = sqlalchemy.create_engine(url, connect_args=connect, poolclass=sqlalchemy.pool.NullPool)

    @contextlib.contextmanager
    def lock(name: str) -> Iterator[None]:
        number = int.from_bytes(sha256(f"taxon {name}".encode()).digest()[:8], "big", signed=True)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"SET LOCAL idle_in_transaction_session_timeout = '{HOLD}s'"))
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})
            yield

    with lock("open"):
        if not own:
            with engine.begin() as connection:
                connection.execute(sqlalchemy.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        return Storage(_tables(url, heartbeat, {"connect_args": connect, "pool_pre_ping": True}), lock)


def _tables(url: str, heartbeat: int, engine: dict[str, Any]) -> RDBStorage:
    return RDBStorage(url.replace("{", "{{").replace("}", "}}"), engine, heartbeat_interval=heartbeat)
