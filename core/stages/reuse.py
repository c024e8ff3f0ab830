"""Finished trainings taken instead of training again, and one training of a stage key at a time on this machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from core.tracking import stage as stages
from core.tracking.run import sweep_now
from core.tracking.store import machine_lock, scratch


@contextmanager
def locked(key: str) -> Iterator[None]:
    """Hold the stage key's lock: whoever trains the same shares its work folder, and waits until this one is through."""
    with machine_lock(f"stage {key}", blocking=False) as free:
        if free:
            yield
            return
    print("taxon: another process of this machine does the same; waiting for its end", file=sys.stderr)
    with machine_lock(f"stage {key}"):
        sweep_now()  # whoever held it may have been killed: its run is to be seen as ended
        yield


def again(finished: stages.Finished, run: Any, shown: Callable[[dict[str, float]], dict[str, float]]) -> dict[str, Any]:
    """Give a run of its own all that a finished training of the same key has: files, metrics, tags and note; return its summary.

    Args:
        shown: which of an epoch's metrics the run is asked to show.
    """
    run.tags(stages.told(finished.run_id) | {"taxon.reused": finished.run_id})
    for epoch, metrics in finished.summary.get("history", ()):
        run.metrics(shown(metrics), epoch)
    if "best_metrics" in finished.summary:
        run.metrics(finished.summary["best_metrics"], finished.summary["epoch"])
    place = scratch("reused")
    try:
        shutil.copytree(finished.folder, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns(stages.MANIFEST))
        stages.publish(run, place, finished.summary)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(f"taxon: this has been trained before (run {finished.run_id}); reused", file=sys.stderr)
    return finished.summary


def usable(key: str, register: bool) -> stages.Finished | None:
    """Return the finished training of a key; None where there is none, or where it must register its model yet.

    Registering is not in the key, for it changes no result. The checkpoints of a training that registered nothing are put back into
    the key's work folder instead: training again continues from its end, so it only evaluates, registers and publishes.
    """
    finished = stages.find_finished(key)
    if finished is None or not register or finished.summary.get("model"):
        return finished
    put_back(finished, key)
    return None


def put_back(finished: stages.Finished, key: str) -> None:
    """Put a training's checkpoints back into the stage key's work folder: training goes on from its end, so it trains nothing."""
    kept = finished.folder / "checkpoints"
    if kept.is_dir():
        shutil.copytree(kept, stages.work_folder(key) / "checkpoints", dirs_exist_ok=True)
