"""Kill -9 at any moment: no process lives on, the same command continues, and the result is that of an undisturbed run, bit by bit."""

from __future__ import annotations

import os
import random
import signal
import time

import psutil
import pytest

from tests.entrypoints.place import TINY, Place, broken_files, kill_group

pytestmark = pytest.mark.slow

# Where in the pipeline to kill: once this run is RUNNING, after a share of a second or so drawn from a fixed seed.
WHERE = ("pseudo_pipeline", "train 0-2", "cluster 2", "train 2-4")
random_ = random.Random(20240607)
LAUNCHER = [(name, round(random_.uniform(0.0, 2.0), 2)) for name in random_.sample(WHERE, 3)]
STAGE = [(name, round(random_.uniform(0.0, 1.0), 2)) for name in ("train 0-2", "cluster 2", "train 2-4")]


def stage_process(launcher: psutil.Process) -> psutil.Process | None:
    """Return the process of the running stage: a child of the launcher's fork server."""
    for child in launcher.children():
        if any("forkserver" in word for word in child.cmdline()):
            return max(child.children(), key=lambda process: process.create_time(), default=None)
    return None


def compare(place: Place, pipeline: Place) -> None:
    """Run the same command to its end; compare all that must not depend on the kill."""
    done = place.run(place.command("pseudo_pipeline", **TINY))
    assert done.returncode == 0, done.stderr
    undisturbed = pipeline.first_parent()
    whole = place.parents()[0]
    assert whole.info.status == "FINISHED"
    assert whole.data.tags["taxon.weights_digest"] == undisturbed.data.tags["taxon.weights_digest"]
    assert place.history(whole.info.run_id) == pipeline.history(undisturbed.info.run_id)
    for run in place.runs():
        assert run.info.status in ("FINISHED", "KILLED", "FAILED"), run.info.run_name
        if run.info.status != "FINISHED":
            assert run.data.tags["taxon.reason"]
    assert broken_files(place.folder / "artifacts") == []
    assert [path for part in ("work", "spool") for path in (place.folder / "cache" / part).glob("*")] == []


def kill_at(place: Place, process, where: str, after: float, victim) -> None:
    """Wait until stage `where` runs and some time more, then kill the process that `victim` picks."""
    place.wait_for(where, "RUNNING", process)
    time.sleep(after)
    chosen = victim(psutil.Process(process.pid)) if process.poll() is None else None
    if chosen is not None:
        os.kill(chosen.pid, signal.SIGKILL)


@pytest.mark.parametrize(("where", "after"), LAUNCHER, ids=str)
def test_killing_the_launcher_loses_nothing(make_place, pipeline, where, after):
    place = make_place("killed")
    process = place.start(place.command("pseudo_pipeline", **TINY))
    try:
        kill_at(place, process, where, after, lambda launcher: launcher)
        process.wait()
        assert place.survivors() == []
    finally:
        kill_group(process)
    stale = {run.info.run_id for run in place.runs() if run.info.status == "RUNNING"}
    compare(place, pipeline)
    assert all(place.client.get_run(run_id).info.status == "KILLED" for run_id in stale)


@pytest.mark.parametrize(("where", "after"), STAGE, ids=str)
def test_killing_the_stage_process_ends_the_pipeline_with_one_line(make_place, pipeline, where, after):
    place = make_place("stage")
    process = place.start(place.command("pseudo_pipeline", **TINY))
    try:
        kill_at(place, process, where, after, stage_process)
        code = process.wait(600)
        assert place.survivors() == []
    finally:
        kill_group(process)
    said = (place.folder / "log").read_text()
    assert "Traceback" not in said
    if code != 0:  # else the stage had ended before it was found
        assert code == 2 and said.splitlines()[-1].startswith("taxon: error: stage '") and "run the same command again" in said
        (parent,) = place.parents()
        assert parent.info.status == "FAILED" and "was killed" in parent.data.tags["taxon.reason"]
    compare(place, pipeline)


def test_killing_mlflow_run_takes_everything_with_it(make_place, pipeline):
    place = make_place("mlflow")
    process = place.start(place.mlflow_command("pseudo_pipeline", **TINY))
    try:
        place.wait_for("train 0-2", "RUNNING", process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert place.survivors(60.0) == []
    finally:
        kill_group(process)
    compare(place, pipeline)
    assert {run.info.status for run in place.parents()} == {"FINISHED", "KILLED"}
