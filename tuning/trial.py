"""One trial: values from the sampler, a training in this process, a child run of the study's run, an outcome for the budget."""

from __future__ import annotations

import contextlib
import errno
import gc
import math
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import Trial, TrialState

from core import progress
from core.config import Dataclass
from core.errors import Gone, UserError, nearest
from core.stages import execute, keys
from core.tracking import lifeline, stage
from core.tracking import run as tracking
from core.tracking.patience import StoreError
from core.tracking.run import Run
from core.tracking.store import machine_lock
from core.tracking.stored import StoredRun
from tuning.budget import Budget, Outcome
from tuning.space import Parameters, Space
from tuning.storage import STORAGE_OUTAGES

KEY_TAG, VALUE_TAG, STATE_TAG, NUMBER_TAG = "taxon.trial_key", "taxon.trial_value", "taxon.trial_state", "taxon.trial"
# Not the trial's fault: the worker ends, and the trial is continued by another one or by the same command.
OUTAGES = (Gone, StoreError, *STORAGE_OUTAGES)


class Heartbeat:
    """Records that a trial is alive while its block runs; a storage that is out of reach for a while does not end it."""

    def __init__(self, rdb: RDBStorage, trial_id: int):
        self.rdb, self.trial_id, self.ended = rdb, trial_id, threading.Event()
        self.thread = threading.Thread(target=self._beat, name="taxon-heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.ended.set()
        self.thread.join(timeout=30)

    def _beat(self) -> None:
        while not self.ended.wait(self.rdb.heartbeat_interval):
            # A study that was deleted has no such trial any more; the trial's next step says so.
            with contextlib.suppress(StorageInternalError, sqlalchemy.exc.SQLAlchemyError, KeyError):
                self.rdb.record_heartbeat(self.trial_id)
        self.rdb.remove_session()


@dataclass(frozen=True)
class Task:
    """What every trial of a study does.

    Attributes:
        space, base, parameters: from which a trial's configuration is made.
        metric: name of the metric in `space.metrics`.
        inputs: digests of what trials read.
        study_name, run_id: the study and its run, the parent of the trials' runs.
        keep_checkpoints: store them all.
    """

    space: Space
    base: Any
    parameters: Parameters
    metric: str
    inputs: dict[str, str]
    study_name: str
    run_id: str
    keep_checkpoints: bool = False

    def run(self, trial: Trial, budget: Budget) -> Outcome | None:
        """Run one trial that `budget` handed out, and record its outcome there; None where it is left to another worker."""
        with Heartbeat(budget.storage.rdb, trial._trial_id), stage.watched(self._is_kept) as folders:
            try:
                outcome = self._outcome(trial, budget)
                settled = budget.settle(trial, outcome) if outcome is not None else False
            except KeyboardInterrupt:
                # A trial that cannot be handed back is found dead instead.
                with lifeline.undisturbed(), contextlib.suppress(Exception):
                    budget.hand_back(trial)
                raise
        if settled:
            for folder in folders:  # nobody will continue it
                shutil.rmtree(folder, ignore_errors=True)
        gc.collect()
        _say(trial, outcome if settled else None)
        return outcome

    def config(self, values: dict[str, Any]) -> Any:
        """Return the prepared configuration of a trial with these values."""
        return self.space.prepare(replace(self.base, **values))

    def key(self, config: Dataclass) -> str:
        """Return the key by which a finished trial is found again."""
        return keys.of_stage(f"trial of {self.space.stage.name} by {self.metric}", config, self.inputs)

    def _is_kept(self, path: Path) -> bool:
        return self.keep_checkpoints or path.parent.name != "checkpoints"

    def _outcome(self, trial: Trial, budget: Budget) -> Outcome | None:
        values = {name: parameter.suggest(trial, name) for name, parameter in self.parameters.items()}
        _end_run_of_dead_worker(trial)
        try:
            config = self.config(values)
        except UserError as error:
            return Outcome(TrialState.FAIL, reason=str(error))
        key = self.key(config)
        with machine_lock(f"trial {key}"):  # whoever was taken for dead may still be at it
            found = _finished(key)
            if found:
                budget.storage.patiently(lambda: trial.set_user_attr("run_id", found[0]))
                return Outcome(TrialState.COMPLETE, found[1])
            described = {NUMBER_TAG: trial.number, "taxon.study": self.study_name}
            run = tracking.open_child(self.run_id, f"trial {trial.number:03d}", self.space.stage.name, described)
            try:
                budget.storage.patiently(lambda: trial.set_user_attr("run_id", run.run_id))
                run.params({name: repr(value) if isinstance(value, float) else value for name, value in values.items()})
                outcome = self._train(config, trial, run, budget)
                self._finish(run, outcome, key)
            except BaseException as error:
                run.finish(*tracking.ending(error))
                raise
        return outcome

    def _train(self, config: Dataclass, trial: Trial, run: Run, budget: Budget) -> Outcome | None:
        """Train; return the outcome, None when the trial was given to another worker meanwhile."""
        run.forward = self._reporter(trial, getattr(config, "stop_at_epoch", 0) or getattr(config, "epochs", 0))
        try:
            with budget.storage.deletion_named(budget.study), progress.quiet():
                summary = execute.perform(self.space.stage, config, run)
            value = self._value(summary["metrics"])
        except optuna.TrialPruned:
            return Outcome(TrialState.PRUNED)
        except UpdateFinishedTrialError:
            return None
        except OUTAGES:
            raise
        except Exception as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            return Outcome(TrialState.FAIL, reason=tracking.ending(error)[1])
        return Outcome(TrialState.COMPLETE, value)

    def _value(self, metrics: dict[str, float]) -> float:
        try:
            value = float(self.space.metrics[self.metric](metrics))
        except KeyError as missing:
            name = missing.args[0]
            raise UserError(f"metric = {self.metric} needs '{name}', which the training did not report{nearest(name, metrics)}") from None
        if not math.isfinite(value):
            raise UserError(f"{self.metric} is {value}: not finite")
        return value

    def _reporter(self, trial: Trial, last_epoch: int) -> Callable[[dict[str, float], int], None]:
        """Return what hears of every epoch: the untrained model and epochs without the metric say nothing about a trial.

        After its last epoch a trial is not pruned any more: its value is known.
        """

        def report(metrics: dict[str, float], epoch: int) -> None:
            try:
                value = float(self.space.metrics[self.metric](metrics))
            except KeyError:
                return
            if not math.isfinite(value):
                raise UserError(f"{self.metric} is {value} after epoch {epoch}: not finite")
            if epoch < 1:
                return
            with contextlib.suppress(StorageInternalError):  # the pruner then misses an epoch; the training goes on
                trial.report(value, epoch)
                if epoch != last_epoch and trial.should_prune():
                    raise optuna.TrialPruned(f"behind other trials after epoch {epoch}")

        return report

    def _finish(self, run: Run, outcome: Outcome | None, key: str) -> None:
        if outcome is None:
            run.finish("KILLED", "it was silent for two heartbeats and another worker continues it")
            return
        if not self.keep_checkpoints:  # what points to checkpoints would point to nothing
            run.tags({stage.KEY_TAG: "", "taxon.best_checkpoint": ""})
        run.tags({KEY_TAG: key, STATE_TAG: outcome.state.name})
        if outcome.value is not None:
            run.tags({VALUE_TAG: repr(outcome.value)})
            run.metrics({f"trial/{self.metric}": outcome.value}, 0)
        failed = outcome.state == TrialState.FAIL
        run.finish("FAILED" if failed else "FINISHED", outcome.reason)


def _finished(key: str) -> tuple[str, float] | None:
    """Return (run id, value) of a complete trial with this key: its worker may have died before it could say so."""
    found = StoredRun.finished_with({KEY_TAG: key, STATE_TAG: "COMPLETE"})
    return (found.run_id, float(found.tag(VALUE_TAG))) if found else None


def _end_run_of_dead_worker(trial: Trial) -> None:
    """Mark the run of the attempt before this one KILLED: its machine may never start again and see to it."""
    run_id = trial.user_attrs.get("run_id")
    if run_id and StoredRun(run_id).status == "RUNNING":
        tracking.fail(run_id, f"its worker died; trial {trial.number} continues it", "KILLED")


def _say(trial: Trial, outcome: Outcome | None) -> None:
    values = " ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in trial.params.items())
    ended = "taken over" if outcome is None else outcome.state.name.lower()
    what = "" if outcome is None else (f"{outcome.value:.4f}" if outcome.value is not None else outcome.reason[:120])
    print(f"taxon: trial {trial.number:3d}  {ended:10s} {what:>8s}  {values}", file=sys.stderr)
