"""A table of superclasses x arms x seeds: every cell a child run that is reused when it is there, then paired differences and a figure.

    for seed: for superclass: for arm: train (or reuse) -> figures so far are written after each -> table, figure, note

Interrupted, the same command goes on: what is finished is looked up by its key.
"""

from __future__ import annotations

import shutil
from typing import Any

from core import config as configuration
from core.config import check_limits
from core.data.problem import NOBODY_SAID
from core.data.superclasses import SUPERCLASSES, find
from core.errors import UserError
from core.stages import execute
from core.stages.discovery import arms, checks, materials, table_report
from core.stages.discovery.arms import ARM, ARMS, FROZEN, ArmConfig
from core.stages.discovery.table_config import SuperclassTableConfig
from core.tracking.recorder import Recorder
from core.tracking.store import scratch
from core.training import recipes

LARGEST = 10  # classes of a superclass that is in the table unless it is named


def run(config: SuperclassTableConfig, run: Recorder) -> dict[str, Any]:
    """Run `superclass_table`."""
    names, seeds, chosen = asked(config)
    cells = [(seed, name, arm) for seed in seeds for name in names for arm in _trained(arms.named(config.arms))]
    jobs = {cell: _config(config, *cell) for cell in cells}  # whatever can be refused is refused before the first one starts
    if names == [""]:
        _require_truth(jobs[cells[0]])
    run.params({"cells": len(cells)})
    report = table_report.Table(chosen, config.against)
    for (seed, name, arm), made in jobs.items():
        title = f"{name or made.dataset} seed {seed} {arm}"
        child = execute.Child(ARM, made, title, arms.begin, tags={"taxon.seed": str(seed), "taxon.arm": arm}, told=table_report.short)
        done = execute.required(execute.below(child, run)).finished
        for shown in _shown(arm, arms.named(config.arms)):
            report.add(name or made.dataset, seed, shown, done.summary)
        run.json(report.rows, "figures.json", "table")
    folder = scratch("table")
    try:
        report.write(folder)
        run.folder(folder)
        report.draw(folder / "plots")
        run.folder(folder / "plots", "plots")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    run.metrics(report.metrics(), 0)
    run.note(report.markdown())
    print(report.markdown())
    return {"cells": len(cells), "differences": report.differences_as_json()}


def asked(config: SuperclassTableConfig) -> tuple[list[str], list[int], list[str]]:
    """Return the superclasses ('' = the data set is no CIFAR-100), the seeds, and which superclasses served for choosing.

    Raises:
        UserError: a name, a seed or an arm is none; the arm to compare with is not trained; an option is said twice.
    """
    check_limits(config)
    trained = arms.named(config.arms)
    if config.against not in trained:
        raise UserError(f"against = '{config.against}' is not among arms = '{config.arms}'; name one of them")
    try:
        seeds = list(dict.fromkeys(int(seed) for seed in config.seeds.split(",")))
    except ValueError:
        raise UserError(f"seeds = '{config.seeds}': give whole numbers, comma-separated, like 1,2,3") from None
    if any(not 0 <= seed < 2**32 for seed in seeds):
        raise UserError(f"seeds = '{config.seeds}': give numbers from 0 to 4294967295")
    _require_free(config)
    chosen = [find(name.strip()).name for name in config.chosen_on.split(",") if name.strip()]
    dataset = recipes.dataset_of(config)
    if dataset != "cifar100":
        if config.superclasses:
            raise UserError(f"superclasses = '{config.superclasses}' are CIFAR-100's, but dataset = {dataset}; leave one of them out")
        return [""], seeds, []
    if config.superclasses:
        names = list(dict.fromkeys(find(name.strip()).name for name in config.superclasses.split(",") if name.strip()))
    else:
        names = [one.name for one in SUPERCLASSES if one.novel and len(one.fine_ids) <= LARGEST]
    return sorted(names, key=lambda name: name in chosen), seeds, chosen


def _require_free(config: SuperclassTableConfig) -> None:
    """Raise UserError for an option that the table itself sets for each of its cells: it would be ignored."""
    if config.superclass_name:
        raise UserError(f"superclass_name = '{config.superclass_name}' names one; give superclasses = {config.superclass_name}")
    if config.seed != 1:
        raise UserError(f"seed = {config.seed} is one; give seeds = {config.seed}")
    if config.objective != "auto":
        raise UserError(f"objective = {config.objective} is what the arms differ in; name the arms that are wanted")


def _require_truth(config: ArmConfig) -> None:
    """Raise UserError where no image that is judged has a true class: a table would have no figure."""
    data, split, truth = materials.posed(config)
    if not truth.tells(split.unlabelled) and not (truth.test != NOBODY_SAID).any():
        raise UserError(f"{data.name}: a table compares by true classes, and nobody knows them here; use pseudo_pipeline")


def _trained(asked: list[str]) -> list[str]:
    """Return the arms that are trained: the frozen features are in the history of every training, of `contrast` to begin with."""
    return list(dict.fromkeys("contrast" if arm == FROZEN else arm for arm in asked))


def _shown(trained: str, asked: list[str]) -> list[str]:
    """Return the arms of the table that a trained one gives figures of."""
    return [arm for arm in asked if arm == trained or (arm == FROZEN and trained == "contrast")]


def _config(config: SuperclassTableConfig, seed: int, name: str, arm: str) -> ArmConfig:
    """Return the resolved and checked options of one cell."""
    cell = {"arm": arm, "seed": seed, "superclass_name": name, "register": False, "dataset": recipes.dataset_of(config)}
    made = configuration.fitted(ArmConfig, config, **cell, **ARMS[arm].options)
    resolved = recipes.resolve(made)
    checks.check_pipeline(resolved)
    return resolved
