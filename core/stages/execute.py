"""Doing a stage: for a command, below another run, in this process or in one of its own; and never what has been done before.

    begin: options checked, data read, key known -> locked -> finished before?  -> its result is this run's, or its parent's
                                                              published before? -> what is left is done, in that run
                                                              else              -> work, publish, and what comes after

Whatever decides that something is not computed again is in this file.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, overload

from core.config import Dataclass, canonical
from core.errors import UserError
from core.stages.after import Summary, Unfinished
from core.stages.server import Request, StageServer
from core.stages.stage import Stage, function_of
from core.tracking import run as tracking
from core.tracking import stage as stages
from core.tracking.recorder import Recorder
from core.tracking.store import machine_lock, scratch
from core.training import distributed

Metrics = dict[str, float]
Work = Callable[[Any, Unfinished | None], Summary]  # of a Recorder; that of a training on several ranks takes None too
Follow = Callable[[Metrics, int], None]


@dataclass(frozen=True)
class Job:
    """A stage that is checked and named, but not begun.

    Attributes:
        key: its stage key; '' = always done anew.
        work: `work(run, unfinished)` computes what is not there yet, publishes it and does what comes after. `run` is None on ranks
            other than 0; `unfinished` is what an earlier run has published and left.
        describe: tells a run that is given a finished result what it was asked for.
        shown: which of an epoch's metrics a run is asked to show.
        registers: the result is to be a registered model. That changes no result, so it is not in the key.
    """

    key: str
    work: Work
    describe: Callable[[Recorder], None] = lambda run: None
    shown: Callable[[Metrics], Metrics] = lambda metrics: metrics
    registers: bool = False


def command(job: Job, run: Recorder | None, reuse: bool = True) -> Summary:
    """Do a job in a command's own run and return its summary ({} on ranks other than 0).

    Whoever does the same waits until this run has ended: it looks for a run that is FINISHED.

    Args:
        reuse: False = a finished result is not taken; what an earlier run has left to be done is done all the same.
    """
    if run is not None and job.key:
        run.ended.enter_context(locked(job.key))
    finished = find(job.key, job.registers) if reuse and run is not None else None
    if not distributed.from_main(finished is not None):
        return once(job, run)
    if finished is None or run is None:
        return {}
    job.describe(run)
    anew = f"it is done anew only when no run with the tag {stages.KEY_TAG} = {job.key} is left"
    print(f"taxon: done before by run {finished.run_id}: reused as it is, checkpoints and logs included; {anew}", file=sys.stderr)
    return _given(finished, run, job.shown)


def once(job: Job, run: Recorder | None) -> Summary:
    """Return the summary of a job: done in `run`, or, where an earlier run published its result, finished in that one.

    In the latter case `run` gets a copy of everything. Whoever calls this holds the key's lock where others could do the same.
    """
    unfinished = Unfinished.of(job.key) if run is not None and job.key else None
    if unfinished is None or run is None:
        return job.work(run, None)
    before = unfinished.finished.run_id
    print(f"taxon: run {before} has computed this; left to be done is: {', '.join(unfinished.left)}", file=sys.stderr)
    run.tags({"taxon.continues": before})
    _put_back(unfinished.finished, job.key)
    with tracking.reopen(before) as opened:
        opened.forward = run.forward
        job.work(opened, unfinished)
    finished = stages.load_finished(before)
    if finished is None:
        raise UserError(f"the files of run {before} cannot be read or are damaged; delete that run and run the same command again")
    return _given(finished, run, job.shown)


def perform(stage: Stage, config: Dataclass, run: Recorder) -> Summary:
    """Do a stage in a run below another one, which holds the lock of its key: a result that can be found again."""
    if stage.begin:
        return once(function_of(stage.begin)(config), run)
    return _vouched(function_of(stage.work), config, run)


@dataclass(frozen=True)
class Child:
    """A stage below another run.

    Attributes:
        stage, config: what is done.
        name: of its run.
        begin: gives its job; for those whose key is not known before.
        key, registers: of its job, where there is no `begin`.
        tags: of its run.
        follow: gets its metrics, epoch by epoch.
        told: says in a few words what came out, for whoever watches.
        label: by which the parent's tag names a result that is reused; '' = its name.
        ready: returns the configuration with which it is done, where it is not reused; it may do what that needs first. For those
            without `begin`.
        anew: do it whatever is there.
    """

    stage: Stage
    config: Dataclass
    name: str
    begin: Callable[[Any], Job] | None = None
    key: str = ""
    registers: bool = False
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    follow: Follow = lambda values, step: None
    told: Callable[[stages.Finished], str] = lambda finished: ""
    label: str = ""
    ready: Callable[[Any], Any] = lambda config: config
    anew: bool = False


@dataclass(frozen=True)
class Done:
    """A child's verified result, and whether it was there before."""

    finished: stages.Finished
    reused: bool


@overload
def below(child: Child, run: Recorder, server: StageServer | None = None) -> Done: ...
@overload
def below(child: Child, run: None, server: StageServer | None = None) -> None: ...
def below(child: Child, run: Recorder | None, server: StageServer | None = None) -> Done | None:
    """Do a child below `run` unless that has been done, and return its result; None on ranks other than 0.

    Args:
        server: gives it a process of its own; None = it is done in this one.
    """
    job = child.begin(child.config) if child.begin is not None else None
    key, registers = (job.key, job.registers) if job is not None else (child.key, child.registers)
    with locked(key) if run is not None and key else nullcontext():
        began = time.time()
        found = find(key, registers) if run is not None and not child.anew else None
        if distributed.from_main(found is not None):
            return None if found is None or run is None else _told(child, run, Done(found, True), began)
        config = child.ready(child.config)
        if run is None:
            if job is not None:
                once(job, None)
            return None
        if server is not None:
            request = Request(child.stage, config, run.run_id, child.name, child.tags, key, time.time())
            run_id = server.run(request, child.follow)
        else:
            tags = {**child.tags, stages.KEY_TAG: key} if key else child.tags
            with tracking.open_child(run.run_id, child.name, child.stage.name, tags) as opened:
                opened.forward = child.follow
                if job is not None:
                    once(job, opened)
                else:
                    perform(child.stage, config, opened)
            run_id = opened.run_id
        found = stages.load_finished(run_id)
    if found is None:
        raise UserError(f"'{child.name}' ended, but its artifacts cannot be read (run {run_id}); run the same command again")
    return _told(child, run, Done(found, False), began)


def required(done: Done | None) -> Done:
    """Return a child's result to a caller that has a run, that is on rank 0; ValueError elsewhere."""
    if done is None:
        raise ValueError("only rank 0 has the results of children")
    return done


def all_below(children: Sequence[Child], run: Recorder | None, also: Sequence[str] = ()) -> list[stages.Finished]:
    """Do every child below `run` and return their results in order ([] on ranks other than 0).

    Several devices in `gpu` (0,1) take one child at a time each, in processes of their own; one device works in this process.

    Args:
        also: modules that such processes import where they need them.
    """
    devices = devices_of(canonical(children[0].config)["gpu"])
    if len(devices) == 1 or run is None:
        return [done.finished for child in children if (done := below(child, run)) is not None]
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)
    # One after another: building towers seeds torch's global generator for a moment.
    keyed = [_keyed(_on(child, devices[0])) for child in children]
    server = StageServer([child.stage for child in children], also)

    def work(child: Child) -> stages.Finished:
        device = free.get()
        try:
            return required(below(_on(child, device), run, server)).finished
        finally:
            free.put(device)

    with ThreadPoolExecutor(len(devices)) as pool:
        return list(pool.map(work, keyed))


def _on(child: Child, device: str) -> Child:
    return dataclasses.replace(child, config=dataclasses.replace(child.config, gpu=device))


def _keyed(child: Child) -> Child:
    """Return the child with its key known, so that threads need not begin it."""
    if child.begin is None:
        return child
    job = child.begin(child.config)
    return dataclasses.replace(child, begin=None, key=job.key, registers=job.registers)


def devices_of(gpu: str) -> list[str]:
    """Return the devices that `gpu` names: '0,1' are two."""
    found = [name.strip() for name in gpu.split(",") if name.strip()]
    if not found:
        raise UserError(f"gpu = '{gpu}' names no device; give auto, cpu, mps, an index, or several like 0,1")
    return found


def slug(name: str) -> str:
    """Return a child's name as metric and tag names may be written."""
    return re.sub(r"[^\w.-]+", "_", name)[:80]


@contextmanager
def locked(key: str) -> Iterator[None]:
    """Hold the stage key's lock: whoever does the same shares its work folder, and waits until this one is through."""
    with machine_lock(f"stage {key}", blocking=False) as free:
        if free:
            yield
            return
    print("taxon: another process of this machine does the same; waiting for its end", file=sys.stderr)
    with machine_lock(f"stage {key}"):
        tracking.sweep_now()  # whoever held it may have been killed: its run is to be seen as ended
        yield


def find(key: str, registers: bool = False) -> stages.Finished | None:
    """Return the finished result of a key; None where there is none, or where it must register its model yet.

    The checkpoints of a training that registered nothing are put back into the key's work folder instead: training again continues
    from its end, so it only evaluates, registers and publishes.
    """
    finished = stages.find_finished(key) if key else None
    if finished is None or not registers or finished.summary.get("model"):
        return finished
    _put_back(finished, key)
    return None


def _put_back(finished: stages.Finished, key: str) -> None:
    """Put a training's checkpoints back into the stage key's work folder: training goes on from its end, so it trains nothing."""
    kept = finished.folder / "checkpoints"
    if kept.is_dir():
        shutil.copytree(kept, stages.work_folder(key) / "checkpoints", dirs_exist_ok=True)


def _given(finished: stages.Finished, run: Recorder, shown: Callable[[Metrics], Metrics]) -> Summary:
    """Give a run of its own all that a finished one of the same key has: files, metrics, tags and note; return its summary."""
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
    return finished.summary


def _told(child: Child, run: Recorder, done: Done, began: float) -> Done:
    """Say on the parent and on the terminal how a child came by its result."""
    if done.reused:
        run.tags({f"taxon.reused.{slug(child.label or child.name)}": done.finished.run_id})
    how = "reused" if done.reused else f"{time.time() - began:.1f} s"
    print(f"taxon: {child.name:40s} {how:>10s}  {child.told(done.finished)}".rstrip(), file=sys.stderr)
    return done


class _Collected:
    """A run whose files are kept in a folder until all are there; everything else goes through."""

    def __init__(self, run: Recorder, place: Path):
        self._run, self._place, self.published = run, place, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def file(self, path: Path, folder: str = "") -> None:
        """Keep one finished file."""
        (self._place / folder).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self._place / folder / path.name)

    def folder(self, path: Path, folder: str = "") -> None:
        """Keep a finished folder's files."""
        shutil.copytree(path, self._place / folder, dirs_exist_ok=True)

    def write(self, name: str, writer: Callable[[Path], Any], folder: str = "") -> None:
        """Let `writer` make a file."""
        (self._place / folder).mkdir(parents=True, exist_ok=True)
        writer(self._place / folder / name)

    def json(self, value: Any, name: str, folder: str = "") -> None:
        """Keep a value as an indented JSON file; the manifest is what a stage publishes with: then all there is is stored."""
        if name == stages.MANIFEST:
            self.publish(json.loads((self._place / stages.SUMMARY).read_text()))
        else:
            self.write(name, lambda path: path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n"), folder)

    def publish(self, summary: Summary) -> None:
        """Store what there is, once."""
        if not self.published:
            stages.publish(self._run, self._place, summary)
        self.published = True


def _vouched(function: Callable[[Any, Any], Summary], config: Dataclass, run: Recorder) -> Summary:
    """Do a stage that stores its files as it goes, and publish them together with its summary and a manifest."""
    place = scratch("step")
    try:
        collected = _Collected(run, place)
        summary = function(config, collected)
        collected.publish(summary)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return summary
