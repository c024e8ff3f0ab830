"""The study runner: the same command, once or on many machines, first time or again, works on the same study until it is done.

    check -> open storage and study -> [claim a trial, train it, settle it] until the budget is spent -> plots, tables, best.json

The study's run is that of the first command; commands that join or continue have runs of their own below it, and whoever sees the
study done publishes into it.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import optuna

from core import config as configuration
from core import digest
from core.errors import UserError
from core.tracking import provenance
from core.tracking import run as tracking
from core.tracking.patience import StoreError
from core.tracking.recorder import Recorder
from core.tracking.run import PARENT_TAG
from core.tracking.stored import StoredRun
from tuning import config as tune_config
from tuning import report, samplers
from tuning.budget import Answer, Budget
from tuning.space import Parameters, Space
from tuning.storage import STORAGE_OUTAGES, Storage, open_storage, unusable
from tuning.trial import Task

ATTRIBUTE = "taxon"  # the study's user attribute with its signature
CODE = "code"  # ... and with the digest of the code that it was begun with


@dataclass(frozen=True)
class Plan:
    """A study that has been checked: nothing in it can be refused later.

    Attributes:
        space, options, base, parameters, inputs: what is searched and on what.
        name: of the study.
        signature: all that must be equal for two commands to share the study.
    """

    space: Space
    options: Any
    base: Any
    parameters: Parameters
    inputs: dict[str, str]
    name: str
    signature: dict[str, str]

    @property
    def points(self) -> list[dict[str, Any]] | None:
        """The grid's points in the order in which they are tried; None without a grid."""
        seed = self.options.sampler_seed
        return self.space.points(0 if seed == "none" else seed) if self.options.sampler == "grid" else None

    @property
    def n_trials(self) -> int:
        """The study's budget."""
        points, asked = self.points, self.options.n_trials
        if points is None:
            return tune_config.TRIALS if asked == "auto" else asked
        return len(points) if asked == "auto" else min(asked, len(points))


def plan(space: Space, options: Any, label: str, several: bool = False, **values: Any) -> Plan:
    """Check a study and name it; raise UserError before anything is opened.

    Args:
        space: the family's.
        options: the command's configuration.
        label: what the study is on, part of its name.
        several: the command runs several studies, so that `study_name` alone would not tell them apart.
        values: options of the training that differ between the command's studies.
    """
    tune_config.check(options)
    metric = space.metric(options.metric)
    base = space.base(options, **values)
    prepared = space.prepare(base)
    parameters = space.parameters(options, base)
    points = len(space.points(0))
    if options.sampler == "grid" and options.n_trials != "auto" and options.n_trials > points:
        raise UserError(f"n_trials = {options.n_trials} is more than the grid's {points} points; leave it out or lower it")
    inputs = space.inputs(prepared)
    signature = space.signature(options, prepared, parameters, inputs) | {"metric": metric}
    name = f"{space.name}-{label}-{options.sampler}-{digest.of_json(signature)[:8]}"
    if options.study_name:
        name = f"{options.study_name}-{label}" if several else options.study_name
    return Plan(space, options, base, parameters, inputs, name, signature)


def run_studies(plans: list[Plan], run: Recorder) -> dict[str, Any]:
    """Run the studies of one command, one after another; `run` is the command's. Return their summaries by name."""
    summaries = {}
    for one in plans:
        summaries[one.name] = run_study(one, run, own=len(plans) == 1)
    if len(plans) > 1:
        run.json(summaries, "studies.json")
    tracking.sweep_now()  # what a killed worker of this machine left
    return summaries


def run_study(plan: Plan, run: Recorder, own: bool = True) -> dict[str, Any]:
    """Work on a study until it is done (or `timeout`); return its summary.

    Args:
        plan: from `plan`.
        run: the command's run.
        own: it may be the study's run; False = the study has a run below it.
    """
    options = plan.options
    with contextlib.closing(open_storage(options.storage, options.heartbeat)) as storage:
        try:
            return _run_study(plan, storage, run, own)
        except STORAGE_OUTAGES as error:
            raise unusable(storage.address, error) from None


def _run_study(plan: Plan, storage: Storage, run: Recorder, own: bool) -> dict[str, Any]:
    options = plan.options
    study = storage.patiently(lambda: _open_study(plan, storage))
    with storage.deletion_named(study), _study_run(plan, study, storage, run, own) as run_id:
        metric = plan.space.metric(options.metric)
        task = Task(plan.space, plan.base, plan.parameters, metric, plan.inputs, plan.name, run_id, options.keep_checkpoints)
        budget = Budget(study, storage, plan.n_trials, options.max_retries, samplers.maker(options), plan.points)
        try:
            done = _work(budget, task, options)
            summary = storage.patiently(lambda: report.publish(task, budget, plan.signature, done))
        finally:
            budget.close()
    best = "no trial is complete" if summary["best"] is None else f"best {metric} {summary['best']['value']:.4f}"
    print(f"taxon: study {plan.name}: {summary['finished']} of {plan.n_trials} trials, {best}; run {run_id}", file=sys.stderr)
    return summary


def _work(budget: Budget, task: Task, options: Any) -> bool:
    """Run trials until the budget is spent (True) or the time is up."""
    began = time.monotonic()
    with _cheap_collections() as frozen:
        while not options.timeout or time.monotonic() - began < options.timeout:
            got = budget.claim()
            if got is Answer.DONE:
                return True
            if got is Answer.WAIT:
                time.sleep(min(2.0, options.heartbeat / 2))
                continue
            task.run(got, budget)
            frozen()
            with contextlib.suppress(StoreError):  # the curves are completed when the study is published
                budget.storage.patiently(lambda: report.log_values(task, budget))
    return False


@contextlib.contextmanager
def _cheap_collections() -> Iterator[Callable[[], None]]:
    """Give a function that, at its first call, takes all that is loaded by then out of the garbage collector's rounds.

    A trial ends with a collection, so that its tensors are gone before the next one; looking through the libraries costs it 0.2 s.
    """
    done: list[bool] = []

    def freeze() -> None:
        if not done:
            gc.freeze()
            done.append(True)

    try:
        yield freeze
    finally:
        gc.unfreeze()


def _open_study(plan: Plan, storage: Storage) -> optuna.Study:
    """Load the study, or make it; refuse one that searches something else."""
    with storage.lock(plan.name):
        study = optuna.create_study(
            storage=storage.rdb,
            study_name=plan.name,
            direction=plan.space.direction,
            load_if_exists=True,
            pruner=_pruner(plan.options),
        )
        stored = study.user_attrs.get(ATTRIBUTE)
        if stored is None and not study.get_trials(deepcopy=False):
            study.set_user_attr(ATTRIBUTE, plan.signature)
            study.set_user_attr(CODE, provenance.code_digest())
        elif stored is None:
            raise UserError(f"study '{plan.name}' in this storage was not made by a tune command; give another study_name")
        elif stored != plan.signature:
            name = next(name for name in {**plan.signature, **stored} if stored.get(name) != plan.signature.get(name))
            theirs, ours = stored.get(name, "none"), plan.signature.get(name, "none")
            raise UserError(
                f"study '{plan.name}' in this storage is another one: its {name} is {theirs[:60]}, not {ours[:60]}; give another study_name"
            )
        elif study.user_attrs.get(CODE) != provenance.code_digest():
            print(
                f"taxon: study {plan.name} was begun with other code: its trials so far may not repeat; another study_name starts anew",
                file=sys.stderr,
            )
    return study


@contextlib.contextmanager
def _study_run(plan: Plan, study: optuna.Study, storage: Storage, run: Recorder, own: bool) -> Iterator[str]:
    """Give the id of the study's run in this tracking store, made or taken up again where that is needed.

    It is kept in the study; machines that do not share a tracking store have one each.
    """
    with contextlib.ExitStack() as stack:
        with storage.lock(plan.name):
            runs = study.user_attrs.get("runs", [])
            found = next((one for one in runs if StoredRun(one).status), "")
            if not found:
                mine = run if own else stack.enter_context(tracking.open_child(run.run_id, plan.name, f"tune_{plan.space.name}", {}))
                study.set_user_attr("runs", [*runs, mine.run_id])
                _describe(plan, mine)
                found = mine.run_id
            elif found != run.run_id:
                run.tags({"taxon.continues": found} | ({PARENT_TAG: found} if own else {}))
                if StoredRun(found).status != "RUNNING":
                    with contextlib.suppress(UserError):  # another process of this machine has it
                        stack.enter_context(tracking.reopen(found))
        yield found


def _describe(plan: Plan, run: Recorder) -> None:
    run.tags({"taxon.study": plan.name})
    run.params({f"search.{name}": parameter for name, parameter in plan.parameters.items()})
    prepared = configuration.canonical(plan.space.prepare(plan.base))
    run.options({name: value for name, value in prepared.items() if name not in plan.parameters})


def _pruner(options: Any) -> optuna.pruners.BasePruner:
    if options.pruner == "median":
        return optuna.pruners.MedianPruner(options.n_startup_trials, options.pruner_warmup)
    if options.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=max(1, options.pruner_warmup))
    return optuna.pruners.NopPruner()
