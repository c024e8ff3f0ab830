"""The true status of an interrupted run, set again once `mlflow run` has gone.

`mlflow run` marks a run FAILED whenever its command did not end well. It means to leave a run alone that has ended already, but compares
the name of a status with numbers (MLflow 3.17, `projects._maybe_set_run_terminated`), so that one that is KILLED becomes FAILED, too.
"""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from core.tracking.provenance import ROOT
from core.tracking.refusal import REASON_TAG

PATIENCE = 60.0  # seconds for `mlflow run` to end
INTERVAL = 0.1


def arrange(run_id: str, launcher: int) -> None:
    """Let a process of its own set the status of a run once the process `launcher` has gone; 0 = nobody launched this one."""
    if launcher:
        words = [sys.executable, "-m", "core.tracking.afterword", run_id, str(launcher)]
        nowhere = subprocess.DEVNULL
        subprocess.Popen(words, cwd=ROOT, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


def main(run_id: str, launcher: int) -> None:
    """Wait for `launcher` to end, then call a run that was interrupted and is FAILED what it is."""
    end = time.monotonic() + PATIENCE
    while psutil.pid_exists(launcher) and psutil.Process(launcher).status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(INTERVAL)
    from core.tracking.patience import Client

    client = Client()
    run = client.get_run(run_id)
    if run.info.status == "FAILED" and run.data.tags.get(REASON_TAG, "").startswith("interrupted"):
        client.set_terminated(run_id, "KILLED", run.info.end_time)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
