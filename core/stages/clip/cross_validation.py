"""Stratified k-fold cross-validation: one child run a fold, and every image predicted by a model that never saw it."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from core import config as configuration
from core import digest
from core.data import texts
from core.evaluation import compare
from core.plots import class_confusion, figure
from core.stages import after, execute, keys
from core.stages.clip import checks, data, evaluate, folds, train
from core.stages.clip.config import TrainClipConfig
from core.stages.clip.stages import TRAIN_CLIP
from core.tracking import stage as stages
from core.tracking.recorder import Recorder
from core.tracking.store import scratch

PREDICTIONS = "out_of_fold.csv"
Tags = dict[str, str]


def cross_validate(config: TrainClipConfig, run: Recorder | None) -> dict[str, Any]:
    """Train every fold and publish the parent's files; return its summary ({} on ranks other than 0)."""
    checks.check_training(config)
    execute.devices_of(config.gpu)
    pool = data.load(config)
    made = folds.folds(pool, config)
    each = [dataclasses.replace(config, fold=k) for k in range(1, config.n_splits + 1)]
    info = [_info(pool, k, folds.parts(pool, one)) for k, one in enumerate(each, start=1)]
    if run is not None:
        run.dataset(pool.name, pool.digest, config.data_dir, "training")
        run.options(configuration.canonical(config))
        run.started()

    tags = {"taxon.data": pool.name, "taxon.seed": str(config.seed)}
    children = [child(one, f"fold {one.fold}", partial(train.begin, pool=pool), tags, run) for one in each]
    finished = execute.all_below(children, run, ("core.models.open_clip_alone",))
    return _publish(config, run, pool, len(made), info, finished) if run is not None else {}


def child(
    config: TrainClipConfig, name: str, begin: Callable[[TrainClipConfig], execute.Job], tags: Tags, run: Recorder | None
) -> execute.Child:
    """Return a fold or configuration as a child run, whose main figures are on its parent's curves too."""
    kept = {"L_total", "val/accuracy", "val/balanced_accuracy", "val/macro_f1"}

    def follow(values: dict[str, float], step: int) -> None:
        if run is not None:
            run.metrics({f"{execute.slug(name)}/{metric}": value for metric, value in values.items() if metric in kept}, step)

    return execute.Child(TRAIN_CLIP, config, name, begin, tags=tags, follow=follow)


def summarise(finished: Sequence[stages.Finished], scored_on: str) -> dict[str, Any]:
    """Return the folds' metrics, their mean and their sample standard deviation (divisor k - 1), of what all folds have."""
    metrics = [fold.summary["best_metrics"] for fold in finished]
    shared = sorted(set.intersection(*(set(found) for found in metrics)))
    values = {name: np.array([found[name] for found in metrics]) for name in shared}
    return {
        "scored_on": scored_on,
        "mean": {name: float(array.mean()) for name, array in values.items()},
        "std": {name: float(array.std(ddof=1)) for name, array in values.items()},
        "folds": [
            {"fold": k, "run_id": fold.run_id, "metrics": found}
            for k, (fold, found) in enumerate(zip(finished, metrics, strict=True), start=1)
        ],
    }


def _info(pool: data.Pool, k: int, rows: folds.Rows) -> dict[str, Any]:
    """Return what folds_info.json says of a fold."""
    counts = {part: np.bincount(pool.images.labels[rows[part]], minlength=len(pool.class_names)) for part in data.PARTS}
    return {
        "fold": k,
        "images": {part: [pool.images.ids[i] for i in rows[part]] for part in data.PARTS},
        "class_counts": {part: dict(zip(pool.class_names, found.tolist(), strict=True)) for part, found in counts.items()},
        "absent_classes": {part: folds.absent_classes(pool, rows[part]) for part in data.PARTS if len(rows[part])},
    }


def _publish(
    config: TrainClipConfig, run: Recorder, pool: data.Pool, k: int, info: list[dict[str, Any]], finished: Sequence[stages.Finished]
) -> dict[str, Any]:
    """Store figures and predictions of all folds, then draw and note; where a run has stored them, what it has left is done there."""
    made = digest.of_json({fold.run_id: fold.manifest for fold in finished})
    key = keys.of_stage("cross_validate", config, {"data": pool.digest, "folds": made})

    def work(opened: Recorder, unfinished: after.Unfinished | None) -> dict[str, Any]:
        folder = scratch("folds")
        try:
            summary = _figures(config, pool, k, info, finished, folder)
            opened.metrics(summary["best_metrics"], config.epochs)
            tags = {stages.KEY_TAG: key, "taxon.data": pool.name, "taxon.seed": str(config.seed), "taxon.select_by": config.select_by}
            steps = after.Steps({"pictures": lambda _summary: _draw(pool, folder)}, lambda found: _say(pool, found))
            return after.settle(after.published(opened, folder, summary, tags, steps, unfinished), steps)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return execute.command(execute.Job(key, work), run, reuse=False)


def _figures(
    config: TrainClipConfig, pool: data.Pool, k: int, info: list[dict[str, Any]], finished: Sequence[stages.Finished], folder: Path
) -> dict[str, Any]:
    """Write the figures and predictions of all folds into `folder`; return the summary."""
    scored_on = "test" if len(info[0]["images"]["test"]) else "val"
    summary = summarise(finished, scored_on) | {"n_splits": k}
    summary["out_of_fold"] = _out_of_fold(pool, finished, scored_on, folder, config.seed)
    cells = {f"cv/{statistic}/{name}": value for statistic in ("mean", "std") for name, value in summary[statistic].items()}
    pooled = {f"cv/out_of_fold/{name}": found[0] for name, found in summary["out_of_fold"].items()}
    summary |= {"epoch": config.epochs, "best_metrics": cells | pooled}
    history = [{"fold": i, "history": fold.summary["history"]} for i, fold in enumerate(finished, start=1)]
    files = {"folds_info": info, "cv_summary": summary, "config": configuration.canonical(config), "history": history}
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    return summary


def _say(pool: data.Pool, summary: dict[str, Any]) -> str:
    """Print the figures; return the run's description."""
    print(table(f"{pool.name}, {summary['n_splits']} folds", summary))
    return note(pool.name, summary)


def _out_of_fold(pool: data.Pool, finished: Sequence[stages.Finished], part: str, folder: Path, seed: int) -> dict[str, list[float]]:
    """Write every held-out prediction; return metric -> [value, low, high], a 95 % bootstrap interval.

    Images of one group are resampled together.
    """
    rows = [
        row | {"fold": str(k)} for k, fold in enumerate(finished, start=1) for row in read_predictions(fold.folder / "evaluation" / part)
    ]
    groups = None
    if pool.groups is not None:
        group_of = dict(zip(pool.images.ids, pool.groups.tolist(), strict=True))
        rows = [row | {"group": str(group_of[row["image"]])} for row in rows]
        groups = np.array([int(row["group"]) for row in rows])
    with open(folder / PREDICTIONS, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    labels, predicted = _answers(pool, folder)
    found = {name: compare.bootstrap_interval(labels, predicted, name, seed=seed, groups=groups) for name in compare.METRICS}
    return {name: [interval.value, interval.low, interval.high] for name, interval in found.items()}


def _answers(pool: data.Pool, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return true and predicted class indices (n,) of the held-out predictions in `folder`."""
    rows = list(texts.dict_rows((folder / PREDICTIONS).read_text(encoding="utf-8")))
    index = {name: i for i, name in enumerate(pool.class_names)}
    true, predicted = (np.array([index[row[column]] for row in rows]) for column in ("true", "predicted"))
    return true, predicted


def _draw(pool: data.Pool, folder: Path) -> None:
    """Draw the confusion of all held-out predictions."""
    figure.save(class_confusion.class_confusion(*_answers(pool, folder), pool.class_names), folder / "plots" / "confusion.png")


def read_predictions(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a folder's predictions.csv: image, true, predicted, confidence."""
    return list(texts.dict_rows((folder / "predictions.csv").read_text(encoding="utf-8")))


def lines(summary: dict[str, Any]) -> dict[str, list[str]]:
    """Return title -> 'mean ± std' of the shown metrics, of the trained model and the lines beside it."""
    means, stds = (evaluate.rows(summary[statistic], summary["scored_on"]) for statistic in ("mean", "std"))
    return {title: [f"{m:.3f} ± {s:.3f}" for m, s in zip(values, stds[title], strict=True)] for title, values in means.items()}


def table(name: str, summary: dict[str, Any]) -> str:
    """Return what a cross-validation prints at its end."""
    head = [name.ljust(36) + "".join(f"{title.replace('_', ' '):>20s}" for title in evaluate.SHOWN)]
    return "\n".join(head + [f"  {title}".ljust(36) + "".join(f"{cell:>20s}" for cell in cells) for title, cells in lines(summary).items()])


def note(name: str, summary: dict[str, Any]) -> str:
    """Return the description shown at the top of the run's page, as Markdown."""
    head = ["| model | " + " | ".join(title.replace("_", " ") for title in evaluate.SHOWN) + " |", "|---|" + "---|" * len(evaluate.SHOWN)]
    rows = [f"| {title} | {' | '.join(cells)} |" for title, cells in lines(summary).items()]
    chosen = "a share of the other folds chose the epoch" if summary["scored_on"] == "test" else "the held-out fold itself chose the epoch"
    pooled = ", ".join(f"{n.replace('_', ' ')} {v:.3f} ({a:.3f} to {b:.3f})" for n, (v, a, b) in summary["out_of_fold"].items())
    about = f"**{name}**: mean ± standard deviation over {summary['n_splits']} held-out folds; {chosen}."
    return "\n".join(
        [about, "", *head, *rows, "", f"All held-out images together, with 95 % intervals: {pooled}.", "Files: `cv_summary.json`."]
    )
