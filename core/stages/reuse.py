"""Finished trainings taken instead of training again, and one training of a stage key at a time on this machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from core.tracking import stage as stages
from core.tracking.store import machine_lock


@contextmanager
def alone(key: str) -> Iterator[None]:
    """Hold the stage key's lock: whoever trains the same shares its work folder, and waits until this one is through."""
    with machine_lock(f"stage {key}", blocking=False) as free:
        if free:
            yield
            return
    print("taxon: another process of this machine does the same; waiting for its end", file=sys.stderr)
    with machine_lock(f"stage {key}"):
        yield


def usable(key: str, register: bool) -> stages.Finished | None:
    """Return the finished training of a key; None where there is none, or where it must register its model yet.

    Registering is not in the key, for it changes no result. The checkpoints of a training that registered nothing are put back into
    the key's work folder instead: training again continues from its end, so it only evaluates, registers and publishes.
    """
    finished = stages.find_finished(key)
    if finished is None or not register or finished.summary.get("model"):
        return finished
    kept = finished.folder / "checkpoints"
    if kept.is_dir():
        shutil.copytree(kept, stages.work_folder(key) / "checkpoints", dirs_exist_ok=True)
    return None
