"""The one place that waits for the tracking store: whatever is asked of it is asked again for minutes while it is away.

A store that is away (restarted, out of reach, its database busy) is told apart from one that refuses, and from one whose run or
experiment somebody deleted meanwhile: only the first is worth waiting for.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from core.errors import Gone, UserError

T = TypeVar("T")
StoreError = MlflowException  # what the store answers, or the client says for it, where it does not do what it is asked for
PATIENCE = "TAXON_STORE_PATIENCE"  # environment variable: seconds for which the store may be away
SECONDS = 600.0
SAID_AFTER = 5.0  # seconds of silence before a line says what is waited for
LONGEST = 15.0  # seconds between two attempts
# What the libraries say when nobody answers, or when a proxy answers for a server that does not.
_AWAY = re.compile(
    r"failed with (timeout )?exception|failed with error code (429|502|503|504)\b|"
    r"Connection ?(refused|reset|aborted|Error)|Max retries exceeded|"
    r"timed? ?out|RemoteDisconnected|EndpointConnectionError|could not connect|server closed the connection|too many (clients|connections)|"
    r"database is locked|database table is locked|\b50[234] |IncompleteRead|Connection broken|response body was not",
)
# What no waiting mends: SQLite's words for a file that is full, gone, replaced or no database.
_FOR_GOOD = re.compile(
    r"disk is full|No space left|no such (table|column)|readonly database|unable to open database|malformed|not a database"
)
_UNANSWERED = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED")
_DELETED = re.compile(r"must be in the 'active' state|not found|does not exist|No (such )?[Rr]un|No Experiment", re.IGNORECASE)
_WRITING = {"log_batch", "log_artifact", "log_artifacts", "log_inputs", "set_tag", "delete_tag", "update_run", "set_terminated"}
CONTINUES = "the same command continues from the checkpoints"
_state = threading.local()


def is_outage(error: BaseException) -> bool:
    """Say whether an error means that the store is away for a while, not that it refuses."""
    said = str(error)
    if _FOR_GOOD.search(said):
        return False
    if isinstance(error, MlflowException):
        code = error.error_code
        return code == "TEMPORARILY_UNAVAILABLE" or (code in _UNANSWERED and bool(_AWAY.search(said)))
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    module = type(error).__module__.partition(".")[0]
    return module in ("requests", "urllib3", "botocore", "sqlalchemy", "psycopg", "google", "azure") and bool(_AWAY.search(said))


def patiently(work: Callable[[], T], what: str) -> T:
    """Do what needs the store; while it is away try again, ever more rarely, for `SECONDS` (environment: TAXON_STORE_PATIENCE).

    Args:
        work: may be done more than once: an answer can be lost after the work was done.
        what: is waiting, for the line that says so.

    Raises:
        Whatever `work` raised last; at once where it is no outage. After one wait in vain nothing waits again until the store answers.
    """
    began, delay, said = time.monotonic(), 0.25, False
    while True:
        try:
            found = work()
        except Exception as error:
            waited = time.monotonic() - began
            if not is_outage(error):
                raise
            if waited >= _allowed():
                _state.given_up = True
                raise
            if waited > SAID_AFTER and not said:
                said = True
                print(
                    f"taxon: the tracking store does not answer ({_reason(error)}); waiting for it up to {_minutes(_allowed())} to {what}",
                    file=sys.stderr,
                )
            time.sleep(min(delay, max(0.05, _allowed() - waited)))
            delay = min(1.6 * delay, LONGEST)
        else:
            _state.given_up = False
            if said:
                print(f"taxon: the tracking store answers again after {time.monotonic() - began:.0f} s", file=sys.stderr)
            return found


def once(make: Callable[[], T], find: Callable[[], T | None], what: str) -> T:
    """Make what must not be made twice: asked again after an answer was lost, `find` looks for what was made then (None = nothing)."""
    asked: list[bool] = []

    def work() -> T:
        found = find() if asked else None
        asked.append(True)
        return make() if found is None else found

    return patiently(work, what)


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Wait no longer than this inside: a process that was asked to end does not wait for minutes."""
    before = getattr(_state, "limit", None)
    _state.limit = seconds
    try:
        yield
    finally:
        _state.limit = before


@contextlib.contextmanager
def outage_named() -> Iterator[None]:
    """Turn an outage that outlasted all patience into one line; other errors pass as they are."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_outage(error):
            raise
        said = f"the tracking store did not answer for {_minutes(seconds())} ({_reason(error)})"
        raise UserError(f"{said}; once it is back run the same command again: it continues from what is finished") from None


def seconds() -> float:
    """Return for how long the store may be away."""
    try:
        return float(os.environ.get(PATIENCE, "") or SECONDS)
    except ValueError:
        raise UserError(f"{PATIENCE} = '{os.environ[PATIENCE]}' is no number of seconds; give one, or unset it") from None


def _allowed() -> float:
    if getattr(_state, "given_up", False):
        return 0.0
    limit = getattr(_state, "limit", None)
    return seconds() if limit is None else min(limit, seconds())


def _minutes(span: float) -> str:
    return f"{span / 60:.0f} minutes" if span >= 120 else f"{span:.0f} s"


def _reason(error: BaseException) -> str:
    """Return the last cause that a chain of HTTP errors quotes, or the error's first words."""
    said = " ".join(str(error).split())
    found = re.findall(r"\[Errno -?\d+\] [\w ]+|Read timed out|Connection aborted|error code \d+|database is locked", said)
    return found[-1] if found else (said[:120] or type(error).__name__)


if TYPE_CHECKING:
    _Asked = MlflowClient  # a type checker sees all of the methods that are handed on
else:
    _Asked = object


class Client(_Asked):
    """MLflow's client, patient: every call waits out an outage, and a write to what was deleted raises Gone.

    All calls but two can be repeated safely; `core.tracking.run` makes runs, and `core.tracking.registry` versions, so that a repeated
    call finds what the first one made.
    """

    def __init__(self, uri: str | None = None):
        self.raw = MlflowClient(uri)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.raw, name)
        if not callable(found):
            return found

        def ask(*args: Any, **named: Any) -> Any:
            try:
                return patiently(lambda: found(*args, **named), name.replace("_", " "))
            except MlflowException as error:
                if name in _WRITING and _DELETED.search(str(error)):
                    raise_if_gone(self.raw, args[0] if args else named["run_id"], error)
                raise

        return ask


def raise_if_gone(client: Any, run_id: str, error: BaseException | None = None) -> None:
    """Raise Gone when the run, or its experiment, has been deleted; a store that does not answer says nothing about it."""
    gone = why_gone(client, run_id)
    if gone is not None:
        raise gone from error


def why_gone(client: Any, run_id: str) -> Gone | None:
    """Return what to say of a run that was deleted; None for one that is there, or of which nothing can be learnt now."""
    try:
        info = client.get_run(run_id).info
        if info.lifecycle_stage == "active":
            return None
        experiment = client.get_experiment(info.experiment_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            return None
        return Gone(f"run {run_id} is no longer in the tracking store (removed by mlflow gc?); {CONTINUES} in a new run", restorable=False)
    if experiment.lifecycle_stage == "deleted":
        restore = f"mlflow experiments restore --experiment-id {info.experiment_id}"
        return Gone(f"experiment '{experiment.name}' of run {run_id} was deleted; bring it back with '{restore}', then {CONTINUES}")
    return Gone(f"run {run_id} was deleted; bring it back with 'mlflow runs restore --run-id {run_id}', or leave it: {CONTINUES}")
