"""What a study leaves: values as curves of its run, trials.csv, best.json that the training takes with --config, and plots."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from core import config as configuration
from core import digest
from core.tracking import run as tracking
from core.tracking.store import scratch
from core.tracking.stored import StoredRun
from tuning import plots
from tuning.budget import FINISHED, Budget
from tuning.trial import NUMBER_TAG, Task

PUBLISHED_TAG = "taxon.published"


def log_values(task: Task, budget: Budget) -> None:
    """Log the value of every finished trial at the step of its number, each exactly once, whoever finished it."""
    with budget.storage.lock(f"{task.study_name} report"):
        rows = {(f"trial/{task.metric}", trial.number): trial.value for trial in _finished(budget) if trial.value is not None}
        StoredRun(task.run_id).missing_metrics(rows)


def publish(task: Task, budget: Budget, signature: dict[str, str], done: bool) -> dict[str, Any]:
    """Write the study's results into its run, unless another worker has written the same; return their summary.

    Args:
        task: of the study.
        budget: with the study.
        signature: stored beside the results.
        done: the budget is spent: the run ends as FINISHED, and runs of trials that no worker holds any more are closed.
    """
    with budget.storage.lock(f"{task.study_name} report"):
        summary = summarise(task, budget)
        run, state = StoredRun(task.run_id), digest.of_json(summary)
        if summary["finished"] and run.tag(PUBLISHED_TAG) != state:
            _log_curves(run, task, budget)
            place = scratch("study")
            try:
                _write(place, task, budget, summary, signature)
                run.folder(place)
            finally:
                shutil.rmtree(place, ignore_errors=True)
            _tell(run, task, summary)
            run.tags({PUBLISHED_TAG: state})
        if done:
            _close(run)
    return summary


def summarise(task: Task, budget: Budget) -> dict[str, Any]:
    """Return counts by state and the best trial: number, value, values of its options, run."""
    trials = budget.study.get_trials(deepcopy=False)
    best = _best(task, trials)
    return {
        "study": task.study_name,
        "metric": task.metric,
        "finished": len(_finished(budget)),
        "pruned": sum(trial.state == TrialState.PRUNED for trial in trials),
        "failed": len(budget.failed()),
        "best": best
        and {"number": best.number, "value": best.value, "params": dict(sorted(best.params.items())), "run_id": best.user_attrs["run_id"]},
    }


def best_configuration(task: Task, values: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a trial as `--config` of its training takes them: every value that is not the option's default.

    Without those that only make trials comparable.
    """
    config = task.config(values)
    config = dataclasses.replace(config, **task.space.of_best(config))
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    return {name: value for name, value in configuration.canonical(config, results_only=True).items() if value != defaults[name]}


def table(budget: Budget) -> pd.DataFrame:
    """Return a row for each trial: number, state, value, values of options, seconds, epochs, reason, run, number it continues."""
    rows = []
    for trial in budget.study.get_trials(deepcopy=False):
        own = {"number": trial.number, "state": trial.state.name, "value": trial.value}
        rest = {
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            "last_epoch": trial.last_step,
            "reason": budget.reason_of(trial) if trial.state == TrialState.FAIL else "",
            "run_id": trial.user_attrs.get("run_id", ""),
            "continues": trial.system_attrs.get("retry_history", [""])[-1],
        }
        if trial.state == TrialState.FAIL and not rest["reason"]:
            rest["reason"] = "its worker died; continued"
        rows.append(own | dict(sorted(trial.params.items())) | rest)
    return pd.DataFrame(rows)


def _finished(budget: Budget) -> list[FrozenTrial]:
    return budget.study.get_trials(deepcopy=False, states=FINISHED)


def _best(task: Task, trials: list[FrozenTrial]) -> FrozenTrial | None:
    sign = 1 if task.space.direction == "maximize" else -1
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    ranked = [(sign * trial.value, -trial.number, trial) for trial in complete if trial.value is not None]
    return max(ranked)[2] if ranked else None


def _log_curves(run: StoredRun, task: Task, budget: Budget) -> None:
    """Log values, and the best so far over the trials' numbers."""
    rows: dict[tuple[str, int], float] = {}
    finished = _finished(budget)
    for place, trial in enumerate(finished, start=1):
        if trial.value is not None:
            rows[(f"trial/{task.metric}", trial.number)] = trial.value
        best = _best(task, finished[:place]) if trial.state == TrialState.COMPLETE else None
        if best is not None and best.value is not None:
            rows[(f"best/{task.metric}", trial.number)] = best.value
    run.missing_metrics(rows)


def _write(place: Path, task: Task, budget: Budget, summary: dict[str, Any], signature: dict[str, str]) -> None:
    trials = table(budget)
    trials.to_csv(place / "trials.csv", index=False)
    (place / "study.json").write_text(json.dumps(summary | {"signature": signature}, indent=1, sort_keys=True) + "\n")
    if summary["best"]:
        best = best_configuration(task, summary["best"]["params"])
        (place / "best.json").write_text(json.dumps(best, indent=1, sort_keys=True) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's plots call themselves experimental
        plots.write(place / "plots", budget.study, task.metric, task.parameters)


def _tell(run: StoredRun, task: Task, summary: dict[str, Any]) -> None:
    best = summary["best"]
    run.tags({"taxon.trials": summary["finished"]})
    facts = f"{summary['finished']} trials finished, {summary['pruned']} of them pruned early; {summary['failed']} failed."
    lines = [f"**Study `{task.study_name}`** by `{task.metric}` ({task.space.direction}). {facts}", ""]
    if best:
        run.tags({"taxon.best_run": best["run_id"], "taxon.best_value": repr(best["value"])})
        lines += ["| option | best |", "|---|---|", *(f"| {name} | {value} |" for name, value in best["params"].items())]
        lines += [f"| **{task.metric}** | **{best['value']:.4f}** (trial {best['number']}) |", ""]
        lines += [f"Train with it: `mlflow run . -e {task.space.stage.name} -P config=runs:/{run.run_id}/best.json`", ""]
    lines += ["Artifacts: `trials.csv`, `best.json`, `study.json`, `plots/`."]
    run.note("\n".join(lines))


def _close(run: StoredRun) -> None:
    """End the study's run, whose own process may be gone, and trials' runs that no worker holds: no trial is running any more."""
    for run_id in run.running_below(NUMBER_TAG):
        tracking.fail(run_id, "its worker died; another trial continues it", "KILLED")
    run.end()
