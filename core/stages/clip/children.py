"""Child runs of one parent, one after another or one a device: folds and configurations. A finished one is never done again."""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from core.errors import UserError
from core.stages import reuse
from core.stages.server import Request, StageServer
from core.tracking import run as tracking
from core.tracking import stage as stages
from core.training import distributed

Work = Callable[[Any], dict[str, Any]]
Begin = Callable[[Any], tuple[str, Work]]


@dataclass(frozen=True)
class Child:
    """One child run.

    Attributes:
        name: of its run.
        config: its configuration.
        begin: checks the configuration, and returns the stage key ('' = always done anew) and what does the work for a run.
        stage: `module:function` that does the same in a process of its own.
    """

    name: str
    config: Any
    begin: Begin
    stage: str


def run_all(children: Sequence[Child], run: Any, entry_point: str, tags: dict[str, str]) -> list[stages.Finished]:
    """Run every child below `run` and return their verified results in order ([] on ranks other than 0).

    Several devices in `gpu` (0,1) take one child at a time each, in processes of their own; one device works in this process.
    """
    devices = devices_of(children[0].config.gpu)
    if len(devices) == 1:
        return [found for child in children if (found := _here(child, run, entry_point, tags)) is not None]
    # One after another: building towers seeds torch's global generator for a moment.
    keys = [_begun(child, devices[0])[0] for child in children]
    server, free = StageServer(("open_clip", "core.stages.clip.train")), SimpleQueue()
    for device in devices:
        free.put(device)

    def work(child: Child, key: str) -> stages.Finished:
        device = free.get()
        try:
            return _there(_on(child, device), key, run, entry_point, tags, server)
        finally:
            free.put(device)

    with ThreadPoolExecutor(len(devices)) as pool:
        return list(pool.map(work, children, keys))


def _on(child: Child, device: str) -> Child:
    return dataclasses.replace(child, config=dataclasses.replace(child.config, gpu=device))


def _begun(child: Child, device: str) -> tuple[str, Work]:
    return child.begin(_on(child, device).config)


def devices_of(gpu: str) -> list[str]:
    """Return the devices that `gpu` names: '0,1' are two."""
    found = [name.strip() for name in gpu.split(",") if name.strip()]
    if not found:
        raise UserError(f"gpu = '{gpu}' names no device; give auto, cpu, mps, an index, or several like 0,1")
    return found


def _here(child: Child, run: Any, entry_point: str, tags: dict[str, str]) -> stages.Finished | None:
    key, work = child.begin(child.config)
    finished = _finished(child, key, run) if run is not None else None
    if distributed.from_main(finished is not None):
        return finished
    if run is None:
        work(None)
        return None
    began = time.time()
    with tracking.open_child(run.run_id, child.name, entry_point, tags) as opened:
        opened.forward = lambda values, step: run.metrics(_followed(child.name, values), step)
        work(opened)
    return _verified(child, opened.run_id, began)


def _there(child: Child, key: str, run: Any, entry_point: str, tags: dict[str, str], server: StageServer) -> stages.Finished:
    if (finished := _finished(child, key, run)) is not None:
        return finished
    began = time.time()
    request = Request(child.stage, child.config, run.run_id, child.name, entry_point, tags, key, began)
    run_id = server.run(request, lambda values, step: run.metrics(_followed(child.name, values), step))
    return _verified(child, run_id, began)


def _finished(child: Child, key: str, run: Any) -> stages.Finished | None:
    finished = reuse.usable(key, child.config.register and not child.config.fold) if key else None
    if finished is not None:
        run.tags({f"taxon.reused.{slug(child.name)}": finished.run_id})
        print(f"taxon: {child.name} has been done before (run {finished.run_id}); reused", file=sys.stderr)
    return finished


def _verified(child: Child, run_id: str, began: float) -> stages.Finished:
    finished = stages.load_finished(run_id)
    if finished is None:
        raise UserError(f"'{child.name}' ended, but its artifacts cannot be read (run {run_id}); run the same command again")
    print(f"taxon: {child.name} took {time.time() - began:.1f} s", file=sys.stderr)
    return finished


def _followed(name: str, values: dict[str, float]) -> dict[str, float]:
    """Return what the parent's curves show of a child's epoch."""
    kept = {"L_total", "val/accuracy", "val/balanced_accuracy", "val/macro_f1"}
    return {f"{slug(name)}/{metric}": value for metric, value in values.items() if metric in kept}


def slug(name: str) -> str:
    """Return a child's name as metric and tag names may be written."""
    return re.sub(r"[^\w.-]+", "_", name)[:80]
