"""A run that was interrupted is KILLED in the end, whatever `mlflow run` made of it; a run that failed stays FAILED."""

import os
import subprocess
import sys
import time

import pytest

from core.tracking import afterword, refusal
from core.tracking import run as tracking

INTERRUPTED = tracking.ending(KeyboardInterrupt())[1]


def ended(client, reason):
    run_id = client.create_run(client.get_experiment_by_name("taxon").experiment_id).info.run_id
    client.set_tag(run_id, refusal.REASON_TAG, reason)
    client.set_terminated(run_id, "FAILED", 1000)
    return run_id


@pytest.mark.parametrize(("reason", "status"), [(INTERRUPTED, "KILLED"), ("k_min = 9 is too large", "FAILED")])
def test_only_an_interruption_is_called_one(client, reason, status):
    run_id = ended(client, reason)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    afterword.main(run_id, gone.pid)
    assert (client.get_run(run_id).info.status, client.get_run(run_id).info.end_time) == (status, 1000)


def test_it_waits_for_the_launcher_and_outlives_who_arranged_it(client):
    run_id = ended(client, INTERRUPTED)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2)"]) as launcher:
        code = f"from core.tracking import afterword; afterword.arrange({run_id!r}, {launcher.pid})"
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(afterword.ROOT)}, check=True)
        if launcher.poll() is None:
            assert client.get_run(run_id).info.status == "FAILED"
    end = time.monotonic() + 120
    while client.get_run(run_id).info.status == "FAILED":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert client.get_run(run_id).info.status == "KILLED"


def test_without_a_launcher_nothing_is_started(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_: pytest.fail("started"))
    afterword.arrange("abc", 0)
