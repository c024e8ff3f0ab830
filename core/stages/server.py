"""Each stage in a process of its own, started in well under a second: a fork server has the heavy imports ready.

The pipeline asks, the fork server forks, the child opens its own child run, works, publishes and ends; metrics travel back through a
pipe, so that the parent run's curves grow live. Nothing may start a thread or touch a GPU while the server imports.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from core.config import Dataclass
from core.errors import Gone, UserError, full_disk_named
from core.stages.stage import Stage, function_of
from core.tracking import patience
from core.tracking import run as tracking

PRELOAD = [
    "torch",
    "torchvision.transforms.v2",
    "timm",
    "scipy.optimize",
    "mlflow.store.tracking.sqlalchemy_store",  # 2 s by itself; an HTTP store does not need it but pays for it only once
    "mlflow.system_metrics.system_metrics_monitor",
    "core.stages.execute",
    "core.tracking.lifeline",
]
PERFORM = "core.stages.execute:perform"  # imported in the stage's process: it asks this server itself


@dataclass(frozen=True)
class Request:
    """What a stage process is asked to do, and the environment it does it in.

    The fork server keeps the environment of the moment it was started at: without this, a process that goes on to another store or
    cache (a notebook, a test) would have its stages look for their parent in the first one.
    """

    stage: Stage
    config: Dataclass
    parent_run_id: str
    name: str
    tags: dict[str, str]
    key: str
    asked_at: float
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))


class StageServer:
    """Runs stages, one at a time, each in a fresh process that is gone with all it held when the stage ends.

    Args:
        stages: which; their modules are imported before the first of them is asked for.
        also: modules that they import where they need them.
    """

    def __init__(self, stages: Sequence[Stage], also: Sequence[str] = ()) -> None:
        # What a killed stage leaves is removed by Python's resource tracker, which need not say so under the line that explains the kill.
        sys.warnoptions.append("ignore:resource_tracker")
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(
            [*PRELOAD, *also, *dict.fromkeys((stage.begin or stage.work).split(":")[0] for stage in stages)]
        )

    def warm_up(self) -> None:
        """Start the fork server's imports now, while this process still reads its data."""
        from multiprocessing import forkserver

        forkserver.ensure_running()

    def run(self, request: Request, on_metrics: Callable[[dict[str, float], int], None]) -> str:
        """Run one stage and return its run id; raise UserError (or RuntimeError with the child's traceback) when it fails."""
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_child, args=(request, sender), name=request.name)
        process.start()
        sender.close()
        try:
            return _listen(receiver, request, on_metrics)
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, Gone)):  # the pipeline's own run may be the one that was deleted
                _let_end(process)
            _reap(process)
            tracking.sweep_now()  # a stage stopped while its run was being made could not end it
            raise
        finally:
            _reap(process)
            receiver.close()


def _reap(process: Any) -> None:
    process.join(timeout=30)
    if process.is_alive():
        process.kill()


def _listen(receiver: Connection, request: Request, on_metrics: Callable[[dict[str, float], int], None]) -> str:
    while True:
        try:
            kind, *content = receiver.recv()
        except EOFError:
            raise UserError(
                f"stage '{request.name}' was killed (out of memory, or by hand); run the same command again to continue from its last epoch"
            ) from None
        if kind == "metrics":
            on_metrics(*content)
        elif kind == "finished":
            return content[0]
        elif kind == "interrupted":
            raise KeyboardInterrupt
        elif kind == "refused":
            raise UserError(content[0])
        else:
            raise RuntimeError(f"stage '{request.name}' failed:\n{content[0]}")


def _let_end(process: Any) -> None:
    """Give an interrupted stage time to end its run properly (Ctrl-C reached it too; SIGTERM does not by itself)."""
    if process.is_alive():
        try:
            process.terminate()
            process.join(timeout=20)
        except KeyboardInterrupt:
            process.kill()


def _child(request: Request, sender: Connection) -> None:
    """The stage process: its own run, its own ending."""
    from core.tracking import lifeline

    os.environ.clear()
    os.environ.update(request.environment)
    lifeline.follow_parent_process()
    lifeline.interrupt_on_sigterm()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run = None
    try:
        run = tracking.open_child(request.parent_run_id, request.name, request.stage.name, {**request.tags, "taxon.stage_key": request.key})
        run.asked_at = request.asked_at
        run.monitor_system()
        run.forward = lambda values, step: sender.send(("metrics", values, step))
        with full_disk_named(), patience.outage_named():
            function_of(PERFORM)(request.stage, request.config, run)
        run.finish()
        sender.send(("finished", run.run_id))
    except BaseException as error:
        for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C comes twice: by the terminal and by the pipeline
            signal.signal(number, signal.SIG_IGN)
        if run is not None:
            run.finish(*tracking.ending(error))
        if isinstance(error, KeyboardInterrupt):
            sender.send(("interrupted",))
        elif isinstance(error, UserError):
            sender.send(("refused", str(error)))
        else:
            sender.send(("failed", traceback.format_exc()))
