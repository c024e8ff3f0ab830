"""The reason of a command that was refused at once, written into the run that `mlflow run` made for it.

Importing MLflow takes several times as long as finding a wrong option. So the reason goes straight to where the run is: over the server's
REST interface, or into the two rows of an SQLite store. Whatever else a store may be is left to `core.tracking.run`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sqlite3
import time
import urllib.request

from core.tracking import names
from core.tracking.store import DEFAULT_URI, places_of

REASON_TAG = "taxon.reason"  # why a run is FAILED or KILLED
ENTRY_POINT_TAG = "taxon.entry_point"
RUN_NAME_TAG = "mlflow.runName"  # MLflow's, beside the name itself
_SQLITE = "sqlite:///"
_SECONDS = 5.0  # of patience with a locked file or a slow server
# With any of these a request is signed, or the server is known by other certificates than the system's: MLflow knows how.
_LIKE_NO_OTHER = ("USERNAME", "PASSWORD", "TOKEN", "AUTH", "INSECURE_TLS", "SERVER_CERT_PATH", "CLIENT_CERT_PATH", "AWS_SIGV4")


def record(run_id: str, reason: str, entry_point: str = "", name: str = "") -> bool:
    """Mark a run FAILED for a reason without importing MLflow; return whether that was possible.

    Args:
        entry_point, name: what the run is told to be of and to be called, instead of the name that MLflow drew; '' = that stays.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    tags = {REASON_TAG: names.cut(reason, names.TAG), ENTRY_POINT_TAG: entry_point, RUN_NAME_TAG: name}
    said = {tag: value for tag, value in tags.items() if value}
    with contextlib.suppress(OSError, ValueError, sqlite3.Error, http.client.HTTPException):
        if uri.startswith(_SQLITE) and "?" not in uri:
            return any(_into_file(path, run_id, said) for path in places_of(os.path.expanduser(uri.removeprefix(_SQLITE))))
        if uri.startswith(("http://", "https://")) and not any(os.environ.get(f"MLFLOW_TRACKING_{word}") for word in _LIKE_NO_OTHER):
            return _to_server(uri, run_id, said)
    return False


def _into_file(path: str, run_id: str, tags: dict[str, str]) -> bool:
    """Set tags, name and status in MLflow's tables; False where the file is none, or does not hold the run."""
    if not os.path.isfile(path):
        return False
    with contextlib.closing(sqlite3.connect(path, timeout=_SECONDS)) as store, store:
        now = int(time.time() * 1000)
        ended = store.execute("UPDATE runs SET status = 'FAILED', end_time = ? WHERE run_uuid = ?", (now, run_id)).rowcount
        if ended:
            rows = [(tag, value, run_id) for tag, value in tags.items()]
            store.executemany("INSERT OR REPLACE INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", rows)
            if RUN_NAME_TAG in tags:
                store.execute("UPDATE runs SET name = ? WHERE run_uuid = ?", (tags[RUN_NAME_TAG], run_id))
        return bool(ended)


def _to_server(uri: str, run_id: str, tags: dict[str, str]) -> bool:
    """Set tags, name and status over REST; URLError is an OSError."""
    renamed = {"run_name": tags[RUN_NAME_TAG]} if RUN_NAME_TAG in tags else {}
    for name, body in (
        *(("set-tag", {"run_id": run_id, "key": tag, "value": value}) for tag, value in tags.items() if tag != RUN_NAME_TAG),
        ("update", {"run_id": run_id, "status": "FAILED", "end_time": int(time.time() * 1000)} | renamed),
    ):
        address = f"{uri.rstrip('/')}/api/2.0/mlflow/runs/{name}"
        request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=_SECONDS).close()
    return True
