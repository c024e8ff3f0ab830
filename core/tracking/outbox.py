"""Metrics on their way to the store: training never waits for tracking, and nothing is lost or sent twice.

Every record is first appended to a spool file, then sent in batches by a thread. While the store does not answer, records stay in
the spool; what is left when a process ends is sent by the next one (`flush_spools`). Records already in the store are skipped there.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from core.places import cache_home, made
from core.tracking.store import machine_lock

BATCH = 500  # below the 1,000 metrics that one log_batch takes


class Outbox:
    """Sends (metric, step) records of one run, each exactly once.

    Args:
        client: the store's client.
        run_id: the run that receives them.
        known: (key, step) pairs that the store already has; these are not sent again.
    """

    def __init__(self, client: MlflowClient, run_id: str, known: Iterable[tuple[str, int]] = ()):
        self.client, self.run_id = client, run_id
        self.seen = set(known)
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
            self.spool.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            self.spool.unlink(missing_ok=True)
        self.seen.update((row[0], row[2]) for row in rows)
        return rows

    def put(self, metrics: dict[str, float], step: int) -> None:
        """Queue finite values for `step`; values that are not finite or were already sent are left out."""
        now = int(time.time() * 1000)
        rows = [(k, float(v), int(step), now) for k, v in metrics.items() if v is not None and math.isfinite(v)]
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
                file.writelines(json.dumps(row) + "\n" for row in rows)
        except OSError as error:  # the checkpoint holds them too: no reason to end a training
            print(f"taxon: {self.spool} cannot be written ({error.strerror}); metrics are kept in memory only", file=sys.stderr)

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until all is sent; False when the store did not take it within `timeout` seconds."""
        self.wake.set()
        return self.idle.wait(timeout)

    def close(self, timeout: float = 60.0) -> bool:
        """Send what is left and end the thread; unsent records stay in the spool for the next process."""
        done = self.flush(timeout)
        self.closing.set()
        self.wake.set()
        self.thread.join(timeout=5)
        if done:
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
            except Exception:  # whatever the store's trouble is, this thread outlives it
                return False
            with self.lock:
                del self.pending[: len(batch)]


def send(client: MlflowClient, run_id: str, rows: list[tuple[str, float, int, int]]) -> None:
    """Send records in one request."""
    client.log_batch(run_id, metrics=[Metric(key, value, moment, step) for key, value, step, moment in rows])


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
            send(client, spool.stem, rows[start : start + BATCH])
    except (MlflowException, OSError):
        return 0
    spool.unlink(missing_ok=True)
    return len(rows)


def read_spool(spool: Path) -> list[tuple[str, float, int, int]]:
    """Return the whole records of a spool file."""
    return [row for line in spool.read_text(errors="replace").splitlines() if (row := _parse(line))]


def _parse(line: str) -> tuple[Any, ...] | None:
    """Read one spooled record; a line cut short by a kill is no record."""
    try:
        return tuple(json.loads(line))
    except json.JSONDecodeError:
        return None
