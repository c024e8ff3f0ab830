"""Kill -9 at any moment: no process lives on, the same command continues, and the result is that of an undisturbed run, bit by bit."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable

import psutil
import pytest

from tests.entrypoints.place import TINY, Place, broken_files, kill_group

pytestmark = pytest.mark.slow

# Where to kill: a share of a second or so after this run has become RUNNING; drawn from a fixed seed.
random_ = random.Random(20240607)
MOMENTS = [(name, round(random_.uniform(0.0, 1.5), 2)) for name in ("train 0-2", "cluster 2", "train 2-4")]


def stage_process(launcher: psutil.Process) -> psutil.Process | None:
    """Return the process of the running stage: a child of the launcher's fork server."""
    for child in launcher.children():
        if any("forkserver" in word for word in child.cmdline()):
            return max(child.children(), key=lambda process: process.create_time(), default=None)
    return None


def kill_at(place: Place, process: subprocess.Popen, where: str, after: float, victim: Callable) -> bool:
    """Wait until stage `where` runs and some time more, kill the process that `victim` picks; say whether there was one."""
    place.wait_for(where, "RUNNING", process)
    time.sleep(after)
    try:
        chosen = victim(psutil.Process(process.pid))
        if chosen is not None:
            chosen.kill()
        return chosen is not None
    except psutil.NoSuchProcess:
        return False


def nothing_half_done(place: Place) -> None:
    """Hold every run to a true status with a reason, and every file to be whole."""
    for run in place.runs():
        assert run.info.status in ("FINISHED", "KILLED", "FAILED"), run.info.run_name
        if run.info.status != "FINISHED":
            assert run.data.tags["taxon.reason"]
    assert broken_files(place.folder / "artifacts") == []
    assert [path for part in ("work", "spool") for path in (place.folder / "cache" / part).glob("*")] == []


def same_result(place: Place, undisturbed: Place) -> None:
    """Run the same command to its end; compare all that a kill must not change."""
    done = place.run(place.command("pseudo_pipeline", **TINY))
    assert done.returncode == 0, done.stderr
    expected, whole = undisturbed.first_parent(), place.parents()[0]
    assert whole.info.status == "FINISHED"
    assert whole.data.tags["taxon.weights_digest"] == expected.data.tags["taxon.weights_digest"]
    assert place.history(whole.info.run_id) == undisturbed.history(expected.info.run_id)
    nothing_half_done(place)


def test_killing_the_launcher_three_times_loses_nothing(make_place, pipeline):
    place = make_place("killed")
    for where, after in MOMENTS:
        process = place.start(place.command("pseudo_pipeline", **TINY))
        try:
            kill_at(place, process, where, after, lambda launcher: launcher)
            process.wait()
            assert place.survivors() == []
        finally:
            kill_group(process)
    stale = {run.info.run_id for run in place.runs() if run.info.status == "RUNNING"}
    same_result(place, pipeline)
    assert all(place.client.get_run(run_id).info.status == "KILLED" for run_id in stale)


def test_killing_the_stage_process_ends_the_pipeline_with_one_line(make_place, pipeline):
    place = make_place("stage")
    for where, after in MOMENTS:
        process = place.start(place.command("pseudo_pipeline", **TINY))
        try:
            kill_at(place, process, where, after / 2, stage_process)
            code = process.wait(600)
            assert place.survivors() == []
        finally:
            kill_group(process)
        said = (place.folder / "log").read_text()
        assert "Traceback" not in said
        if code == 0:  # the stage had ended before it was found
            break
        assert code == 2 and said.splitlines()[-1].startswith("taxon: error: stage '") and "run the same command again" in said
        assert place.parents()[0].info.status == "FAILED" and "was killed" in place.parents()[0].data.tags["taxon.reason"]
    same_result(place, pipeline)


def test_killing_mlflow_run_takes_everything_with_it(make_place, pipeline):
    place = make_place("mlflow")
    process = place.start(place.mlflow_command("pseudo_pipeline", **TINY))
    try:
        kill_at(place, process, "train 0-2", 0.5, lambda launcher: launcher)
        process.wait()
        assert place.survivors(60.0) == []
    finally:
        kill_group(process)
    same_result(place, pipeline)
    assert {run.info.status for run in place.parents()} == {"FINISHED", "KILLED"}
