"""The budget of a study, shared by all its workers: who may start a trial, what becomes of trials whose worker died.

All decisions are made under the storage's lock, so that `finished + running + waiting <= n_trials` holds at any moment:

    dead RUNNING trials fail -> failed ones without a reason wait again, with their values -> a waiting one, or a new one, is claimed
"""

from __future__ import annotations

import copy
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState

from core.errors import UserError
from core.tracking import provenance
from core.tracking.store import machine_lock
from tuning.storage import Storage

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
FAILURES = 5  # failed trials for each finished one, and for none, that end a study: its options cannot work


class Answer(Enum):
    """What a worker does when it gets no trial."""

    WAIT = "others run the last trials; one of them may yet fail"
    DONE = "the budget is spent"


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: its state, its value when complete, its reason when failed."""

    state: TrialState
    value: float | None = None
    reason: str = ""


class Budget:
    """One worker's access to a study.

    Args:
        study: loaded from `storage`.
        storage: with the lock that all workers share.
        n_trials: trials to finish (complete or pruned) in all.
        max_retries: how often a trial whose worker died waits again.
        sampler: makes the sampler of a trial from its place among the trials that continue no other: after a kill the same is drawn.
        points: the grid's points, one trial each; None = the sampler draws.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: Storage,
        n_trials: int,
        max_retries: int,
        sampler: Callable[[int], optuna.samplers.BaseSampler],
        points: list[dict[str, Any]] | None = None,
    ):
        self.study, self.storage, self.n_trials, self.max_retries = study, storage, n_trials, max_retries
        self.sampler, self.points = sampler, points
        self.worker = f"{provenance.host()} {uuid.uuid4().hex}"
        self._alive = machine_lock(f"worker {self.worker}", blocking=False)
        self._alive.__enter__()

    def close(self) -> None:
        """Say that this worker is gone."""
        self._alive.__exit__(None, None, None)

    def claim(self) -> Trial | Answer:
        """Start the next trial, or say why there is none.

        Raises:
            UserError: trials only fail.
            Gone: the study was deleted.
        """
        return self.storage.patiently(self._claim)

    def _claim(self) -> Trial | Answer:
        with self.storage.lock(self.study.study_name):
            self.storage.require(self.study)
            self._bury()
            self._requeue()
            trials = self.study.get_trials(deepcopy=False)
            of = {state: [trial for trial in trials if trial.state == state] for state in TrialState}
            finished = sum(len(of[state]) for state in FINISHED)
            if finished >= self.n_trials or self._exhausted(trials):
                return Answer.WAIT if of[TrialState.RUNNING] else Answer.DONE
            self._give_up(finished, trials)
            if not of[TrialState.WAITING]:
                if finished + len(of[TrialState.RUNNING]) >= self.n_trials or not self._new_point(trials):
                    return Answer.WAIT
                place = _place(len(trials), trials)
            else:
                waiting = of[TrialState.WAITING][0]
                place = _place([*RetryHeartbeatStaleTrialCallback.retry_history(waiting), waiting.number][0], trials)
            return self._start(place)

    def _start(self, place: int) -> Trial:
        self.study.sampler = self.sampler(place)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the heartbeat is ours (tuning/trial.py), not that of Study.optimize
            trial = self.study.ask()
        self.storage.rdb.record_heartbeat(trial._trial_id)
        trial.set_user_attr("worker", f"{trial.number} {self.worker}")
        return trial

    def _bury(self) -> None:
        """Fail the trials whose worker is dead: silent for two heartbeats, gone from this machine, or killed before it signed."""
        optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            number, _, worker = trial.user_attrs.get("worker", "").partition(" ")
            if number != str(trial.number) or self._is_gone(worker):
                self.storage.rdb.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _is_gone(self, worker: str) -> bool:
        if worker == self.worker or not worker.startswith(provenance.host()):
            return worker == self.worker  # a worker has one trial at a time: one that it holds while it asks was left by an error
        with machine_lock(f"worker {worker}", blocking=False) as free:
            return free

    def _requeue(self) -> None:
        """Let failed trials without a reason wait again with the same values; a kill between failing and this is made good later."""
        trials = self.study.get_trials(deepcopy=False)
        retried = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
        for trial in trials:
            if trial.state == TrialState.FAIL and trial.number not in retried and self.reason_of(trial) == "":
                RetryHeartbeatStaleTrialCallback()(self.study, copy.deepcopy(trial))

    def reason_of(self, trial: FrozenTrial) -> str:
        """Return why a failed trial failed for good, or '' when only its worker died and it waits again."""
        reason = trial.user_attrs.get("reason", "")
        interruptions = trial.user_attrs.get("interruptions", [])
        deaths = 1 + len(RetryHeartbeatStaleTrialCallback.retry_history(trial)) - len(interruptions)
        if not reason and trial.number not in interruptions and deaths > self.max_retries:
            return f"its worker died {deaths} times"
        return reason

    def failed(self, trials: list[FrozenTrial] | None = None) -> list[FrozenTrial]:
        """Return the trials that failed for good."""
        trials = self.study.get_trials(deepcopy=False) if trials is None else trials
        return [trial for trial in trials if trial.state == TrialState.FAIL and self.reason_of(trial)]

    def _give_up(self, finished: int, trials: list[FrozenTrial]) -> None:
        failed = self.failed(trials)
        if len(failed) >= FAILURES * (1 + finished):
            raise UserError(
                f"study '{self.study.study_name}': {len(failed)} trials failed and {finished} finished; the last one failed because: "
                f"{self.reason_of(failed[-1])[:300]}"
            )

    def _unused(self, trials: list[FrozenTrial]) -> list[dict[str, Any]]:
        used = [trial.system_attrs.get("fixed_params") for trial in trials]
        return [point for point in self.points or [] if point not in used]

    def _exhausted(self, trials: list[FrozenTrial]) -> bool:
        """Say whether a grid has no point left: failed ones are not replaced."""
        open_ = any(not trial.state.is_finished() for trial in trials)
        return self.points is not None and not open_ and not self._unused(trials)

    def _new_point(self, trials: list[FrozenTrial]) -> bool:
        if self.points is not None:
            unused = self._unused(trials)
            if not unused:
                return False
            self.study.enqueue_trial(unused[0])
        return True

    def settle(self, trial: Trial, outcome: Outcome) -> bool:
        """Record how a trial ended; False when it had been taken for dead and given to another worker."""
        return self.storage.patiently(lambda: self._settle(trial, outcome))

    def _settle(self, trial: Trial, outcome: Outcome) -> bool:
        rdb = self.storage.rdb
        with self.storage.lock(self.study.study_name):
            stored = rdb.get_trial(trial._trial_id)
            if stored.state != TrialState.RUNNING:
                return stored.state == outcome.state and stored.state != TrialState.FAIL  # ours, when only the answer was lost
            if outcome.state == TrialState.FAIL:
                trial.set_user_attr("reason", outcome.reason)
            self.study.tell(trial, outcome.value, None if outcome.state == TrialState.COMPLETE else outcome.state)
            return True

    def hand_back(self, trial: Trial) -> None:
        """Let an interrupted trial wait again; that does not count as a death."""
        with self.storage.lock(self.study.study_name):
            if self.storage.rdb.get_trial(trial._trial_id).state == TrialState.RUNNING:
                trial.set_user_attr("interruptions", [*trial.user_attrs.get("interruptions", []), trial.number])
                self.study.tell(trial, state=TrialState.FAIL)


def _place(number: int, trials: list[FrozenTrial]) -> int:
    return sum(trial.number < number and not RetryHeartbeatStaleTrialCallback.retry_history(trial) for trial in trials)
