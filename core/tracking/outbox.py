"""Metrics on their way to the store: training never waits for tracking, and nothing is lost or sent twice.

Every record is first appended to a spool file, then sent in batches by a thread. While the store does not answer, records stay in
the spool; what is left when a process ends is sent by the next one (`flush_spools`). Records already in the store are skipped there.
Records of a run that was deleted wait for its restoration; those of one that is gone for good are dropped. A record that the store refuses
as invalid is dropped alone, and said.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from core.errors import Gone
from core.places import cache_home, made
from core.tracking import names
from core.tracking.patience import is_outage, why_gone
from core.tracking.store import machine_lock

BATCH = 500  # below the 1,000 metrics that one log_batch takes
REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")  # the store's codes for what it will never take


class Outbox:
    """Sends (metric, step) records of one run, each exactly once.

    Args:
        client: the store's client.
        run_id: the run that receives them.
        known: (key, step) pairs that the store already has; these are not sent again.

    Attributes:
        gone: set once the store says that the run was deleted; nothing is sent any more.
    """

    def __init__(self, client: MlflowClient, run_id: str, known: Iterable[tuple[str, int]] = ()):
        self.client, self.run_id = client, run_id
        self.seen = set(known)
        self.gone: Gone | None = None
        self.store = fingerprint(client)
        self.spool = spool_folder() / f"{run_id}.jsonl"
        self.pending = self._adopt()
        self.wake, self.idle, self.closing = threading.Event(), threading.Event(), threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._send_forever, name="taxon-outbox", daemon=True)
        self.thread.start()
        self.wake.set()

    def _adopt(self) -> list[tuple[str, float, int, int]]:
        """Take over what an earlier process of this run left unsent; a line that its end cut short would swallow the next one."""
        rows = [row for row in read_spool(self.spool) if (row[0], row[2]) not in self.seen] if self.spool.exists() else []
        if rows:
            self.spool.write_text(self._lines(rows))
        else:
            self.spool.unlink(missing_ok=True)
        self.seen.update((row[0], row[2]) for row in rows)
        return rows

    def put(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue finite values for `step`; values that are not finite or were already sent are left out."""
        now = int(time.time() * 1000)
        finite = {key: float(value) for key, value in metrics.items() if value is not None and math.isfinite(value)}
        rows = [(names.key(key), value, int(step), now) for key, value in finite.items()]
        with self.lock:
            rows = [row for row in rows if (row[0], row[2]) not in self.seen]
            if not rows:
                return
            self.seen.update((key, step) for key, _value, step, _time in rows)
            self._append(rows)
            self.pending.extend(rows)
            self.idle.clear()
        self.wake.set()

    def _append(self, rows: list[tuple[str, float, int, int]]) -> None:
        try:
            with open(self.spool, "a") as file:
                file.write(self._lines(rows))
        except OSError as error:  # the checkpoint holds them too: no reason to end a training
            print(f"taxon: {self.spool} cannot be written ({error.strerror}); metrics are kept in memory only", file=sys.stderr)

    def _lines(self, rows: list[tuple[str, float, int, int]]) -> str:
        """Return records as lines of the spool; each says of which store it is."""
        return "".join(json.dumps([*row, self.store]) + "\n" for row in rows)

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until all is sent; False when the store did not take it within `timeout` seconds, or the run is gone."""
        self.wake.set()
        return self.idle.wait(timeout) and self.gone is None

    def close(self, timeout: float = 60.0) -> bool:
        """Send what is left and end the thread; unsent records stay in the spool for the next process."""
        done = self.flush(timeout)
        self.closing.set()
        self.wake.set()
        self.thread.join(timeout=5)
        if done or (self.gone is not None and not self.gone.restorable):
            self.spool.unlink(missing_ok=True)
        return done

    def _send_forever(self) -> None:
        delay = 1.0
        while not self.closing.is_set():
            self.wake.wait()
            self.wake.clear()
            if self._send_all():
                delay = 1.0
            elif not self.closing.wait(delay):
                delay = min(delay * 2, 30.0)
                self.wake.set()

    def _send_all(self) -> bool:
        while True:
            with self.lock:
                batch = self.pending[:BATCH]
                if not batch:
                    self.idle.set()
                    return True
            try:
                send(self.client, self.run_id, batch)
            except Exception as error:  # whatever the store's trouble is, this thread outlives it
                if not self._understood(error, batch):
                    return False
                continue
            with self.lock:
                del self.pending[: len(batch)]

    def _understood(self, error: Exception, batch: list[tuple[str, float, int, int]]) -> bool:
        """Deal with a refusal: note that the run is gone, or find the record that is refused; False where waiting may help."""
        if is_outage(error) or not isinstance(error, MlflowException):
            return False
        with contextlib.suppress(Exception):  # a store that cannot say so now is asked at the next attempt
            self.gone = why_gone(self.client, self.run_id)
        if self.gone is not None:
            with self.lock:
                self.pending.clear()
            return True
        if error.error_code not in REFUSED:
            return False
        try:
            refused = send_each(self.client, self.run_id, batch)
        except Exception:  # away again: what was sent of the batch is sent again, which changes nothing
            return False
        with self.lock:
            del self.pending[: len(batch)]
        _say_refused(self.run_id, refused, error)
        return True


def send(client: MlflowClient, run_id: str, rows: list[tuple[str, float, int, int]]) -> None:
    """Send records in one request."""
    client.log_batch(run_id, metrics=[Metric(key, value, moment, step) for key, value, step, moment in rows])


def send_each(client: MlflowClient, run_id: str, rows: list[tuple[str, float, int, int]]) -> list[tuple[str, float, int, int]]:
    """Send a batch that the store refused in halves, down to single records; return the records that it does not take.

    Raises:
        MlflowException: anything but a refusal.
    """
    if len(rows) > 1:
        half = len(rows) // 2
        return [row for part in (rows[:half], rows[half:]) for row in _refused_of(client, run_id, part)]
    return _refused_of(client, run_id, rows)


def _refused_of(client: MlflowClient, run_id: str, rows: list[tuple[str, float, int, int]]) -> list[tuple[str, float, int, int]]:
    try:
        send(client, run_id, rows)
    except MlflowException as error:
        if error.error_code not in REFUSED or is_outage(error):
            raise
        return rows if len(rows) == 1 else send_each(client, run_id, rows)
    return []


def _say_refused(run_id: str, rows: list[tuple[str, float, int, int]], error: Exception) -> None:
    for key, value, step, _time in rows:
        said = " ".join(str(error).split())[:160]
        print(
            f"taxon: the store refuses metric '{key[:80]}' = {value:g} at {step} of run {run_id}; it is left out ({said})", file=sys.stderr
        )


def stored(client: MlflowClient, run_id: str) -> set[tuple[str, int]]:
    """Return every (metric, step) that the store holds for a run."""
    keys = client.get_run(run_id).data.metrics
    return {(key, metric.step) for key in keys for metric in client.get_metric_history(run_id, key)}


def spool_folder() -> Path:
    return made(cache_home() / "spool")


def flush_spools(client: MlflowClient) -> int:
    """Send what ended processes left unsent; return the number of records sent. Runs of another store are left alone."""
    sent = 0
    for spool in sorted(spool_folder().glob("*.jsonl")):
        with machine_lock(f"run {spool.stem}", blocking=False) as mine:
            if mine:
                sent += _flush_one(client, spool)
    return sent


def _flush_one(client: MlflowClient, spool: Path) -> int:
    try:
        rows = read_spool(spool)
        have = stored(client, spool.stem)
        rows = [row for row in rows if (row[0], row[2]) not in have]
        for start in range(0, len(rows), BATCH):
            _send_or_split(client, spool.stem, rows[start : start + BATCH])
    except (MlflowException, OSError):
        _drop_if_gone(client, spool)
        return 0
    spool.unlink(missing_ok=True)
    return len(rows)


def _send_or_split(client: MlflowClient, run_id: str, rows: list[tuple[str, float, int, int]]) -> None:
    try:
        send(client, run_id, rows)
    except MlflowException as error:
        if error.error_code not in REFUSED or is_outage(error) or why_gone(client, run_id) is not None:
            raise
        _say_refused(run_id, send_each(client, run_id, rows), error)


def _drop_if_gone(client: MlflowClient, spool: Path) -> None:
    """Remove the spool of a run that its own store has no more; one of a deleted run is kept, as it may be restored."""
    with contextlib.suppress(MlflowException, OSError):
        gone, store = why_gone(client, spool.stem), fingerprint(client)
        if gone is not None and not gone.restorable and store and store == _store_of(spool):
            spool.unlink(missing_ok=True)


def fingerprint(client: MlflowClient) -> str:
    """Return what tells this store from others, whatever its address: when its first experiment was made; '' where it cannot say."""
    with contextlib.suppress(Exception):
        return str(client.get_experiment("0").creation_time or "")
    return ""


def _store_of(spool: Path) -> str:
    """Return the fingerprint that the records of a spool carry; '' where they carry none."""
    for line in spool.read_text(errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError, IndexError, TypeError):
            return str(json.loads(line)[4])
    return ""


def read_spool(spool: Path) -> list[tuple[str, float, int, int]]:
    """Return the whole records of a spool file."""
    return [row for line in spool.read_text(errors="replace").splitlines() if (row := _parse(line))]


def _parse(line: str) -> tuple[Any, ...] | None:
    """Read one spooled record; a line cut short by a kill is no record."""
    try:
        return tuple(json.loads(line)[:4])
    except (json.JSONDecodeError, TypeError):
        return None
