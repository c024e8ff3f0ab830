"""Figures, tables and pictures of a post classifier's probabilities on a part; shared by both kinds of encoder."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.data import post_splits
from core.data.posts import Posts
from core.evaluation import classification, compare
from core.evaluation.compare import Interval
from core.lineage import short
from core.plots import class_confusion, figure, reliability
from core.stages.posts import results

SHOWN = ("accuracy", "macro_f1", "balanced_accuracy")
KEPT = (*SHOWN, "nll", "ece")


def metrics_of(posts: Posts, probabilities: np.ndarray, class_counts: np.ndarray) -> dict[str, float]:
    """Return the metrics of probabilities (N, C) on labelled posts; classes without posts do not count."""
    found = classification.report(posts.truth, probabilities, posts.class_names, class_counts)
    return {name: found.metrics[name] for name in KEPT}


def intervals_of(posts: Posts, probabilities: np.ndarray, seed: int) -> dict[str, Interval]:
    """Return the 95 % bootstrap intervals of SHOWN; duplicates are resampled together."""
    groups = post_splits.groups_of(posts)
    return {name: compare.bootstrap_interval(posts.truth, probabilities, name, seed=seed, groups=groups) for name in SHOWN}


def figures_of(posts: Posts, probabilities: np.ndarray, class_counts: np.ndarray, seed: int) -> dict[str, float]:
    """Return the metrics of probabilities (N, C) on labelled posts, with `<name>_low` and `<name>_high` of SHOWN."""
    ends = {f"{name}_{end}": getattr(one, end) for name, one in intervals_of(posts, probabilities, seed).items() for end in ("low", "high")}
    return metrics_of(posts, probabilities, class_counts) | ends


def write_tables(posts: Posts, probabilities: np.ndarray, class_counts: np.ndarray, folder: Path, figures: Mapping[str, float]) -> None:
    """Write metrics.json, intervals.json, per_class.csv and predictions.csv into `folder`; `figures` are those of `figures_of`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = classification.report(posts.truth, probabilities, posts.class_names, class_counts)
    metrics = {name: figures[name] for name in KEPT}
    intervals = {name: [figures[f"{name}_low"], figures[f"{name}_high"]] for name in SHOWN}
    (folder / "metrics.json").write_text(json.dumps(metrics | {"posts": len(posts), "unscored": found.unscored}, indent=1) + "\n")
    (folder / "intervals.json").write_text(json.dumps(intervals, indent=1) + "\n")
    write_table(folder / "per_class.csv", [{k: "" if v is None else v for k, v in row.items()} for row in found.per_class])
    write_table(folder / "predictions.csv", predictions(posts, probabilities))


def draw_pictures(posts: Posts, probabilities: np.ndarray, folder: Path) -> None:
    """Draw the confusion matrix and the calibration of probabilities (N, C) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = posts.class_names
    figure.save(class_confusion.class_confusion(posts.truth, probabilities.argmax(axis=1), names), folder / "confusion.png")
    figure.save(reliability.reliability(posts.truth, probabilities), folder / "reliability.png")


def predictions(posts: Posts, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """Return a row a post: guid, true, predicted, confidence, the probability of each class, and the keys of its content."""
    names, best = posts.class_names, probabilities.argmax(axis=1)
    return [
        {"guid": guid, "true": true, "predicted": names[p], "confidence": f"{row[p]:.6f}"}
        | {f"p_{name}": f"{value:.6f}" for name, value in zip(names, row, strict=True)}
        | {"content": " ".join(short(key) for key in item)}
        for guid, true, p, row, item in zip(posts.guids, posts.tags, best, probabilities, results.items_of(posts), strict=True)
    ]


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV (UTF-8)."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def table(title: str, metrics: dict[str, float]) -> str:
    """Return what a training prints at its end."""
    lines = [title.ljust(36) + "".join(f"{name.replace('_', ' '):>28s}" for name in SHOWN)]
    for part in ("val", "test"):
        if f"best/{part}/accuracy" in metrics:
            cells = [f"{cell(metrics, f'best/{part}/{name}'):>28s}" for name in SHOWN]
            lines.append(f"  {part}".ljust(36) + "".join(cells))
    return "\n".join(lines)


def cell(metrics: dict[str, float], name: str) -> str:
    """Return a score with its interval."""
    return f"{metrics[name]:.3f} ({metrics[f'{name}_low']:.3f}-{metrics[f'{name}_high']:.3f})"


def note(title: str, metrics: dict[str, float], model: str) -> str:
    """Return the description shown at the top of the run's page, as Markdown."""
    rows = ["| part | " + " | ".join(name.replace("_", " ") for name in SHOWN) + " |", "|---|" + "---|" * len(SHOWN)]
    for part in ("val", "test"):
        if f"best/{part}/accuracy" in metrics:
            rows.append(f"| {part} | " + " | ".join(cell(metrics, f"best/{part}/{name}") for name in SHOWN) + " |")
    end = f"{f'Registered as `{model}`. ' if model else ''}Pictures: `evaluation/test/` (confusion.png, reliability.png)."
    return "\n".join([f"**{title}**, 95 % intervals", "", *rows, "", end])
