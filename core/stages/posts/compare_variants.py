"""Trainings that differ in one thing, side by side: heads and modalities, or cleaning rules; one child run each."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from core import config as configuration
from core.config import check_limits
from core.data import post_splits, text_cleaning
from core.data.posts import Posts
from core.errors import UserError
from core.evaluation import compare
from core.plots import comparison_bars, figure
from core.stages import execute
from core.stages.posts import checks, evaluate, materials, optimize
from core.stages.posts.config import OptimizeClipConfig
from core.stages.posts.config_tools import HeadVariantConfig, PreprocessConfig
from core.stages.posts.stages import OPTIMIZE_CLIP
from core.tracking.recorder import Recorder
from core.tracking.store import scratch

SCORES = ("accuracy", "macro_f1")
P_TITLE = "p against the first (Holm)"


@dataclass(frozen=True)
class Outcome:
    """One variant: predictions (N, S) of S seeds on the same posts, and the runs that made them."""

    name: str
    predicted: np.ndarray
    runs: tuple[str, ...]


def heads(config: HeadVariantConfig, run: Recorder) -> dict[str, Any]:
    """Run `head_variant_compare`: write comparison/ (table.csv, comparison.json, bars.png); return the table."""
    names, left_out = checks.head_variants(config, builder())
    checks.announce(left_out)
    made = [(name, checks.with_variant(plain(config), name)) for name in names]
    return compared(config, made, run, "head_variant_compare", "heads and modalities")


def preprocessing(config: PreprocessConfig, run: Recorder) -> dict[str, Any]:
    """Run `preprocess_compare`: write comparison/ (table.csv, comparison.json, bars.png); return the table."""
    names = [name.strip() for name in config.rule_sets.split(",") if name.strip()]
    checks.refuse_doubles(names, "rule_sets")
    for name in names:
        text_cleaning.rules_of(name.replace("+", ","))
    made = [(name, dataclasses.replace(plain(config), cleaning=name.replace("+", ","))) for name in names]
    return compared(config, made, run, "preprocess_compare", "cleaning rules")


def plain(config: HeadVariantConfig | PreprocessConfig) -> OptimizeClipConfig:
    """Return the options of optimize_clip among those of a comparison, which registers nothing."""
    return configuration.fitted(OptimizeClipConfig, config, register=False, resume="")


def builder() -> Callable[[OptimizeClipConfig], None]:
    """Return what builds the towers of a training, once for each modality: their mistakes show before the first training."""
    built: set[str] = set()

    def build(one: OptimizeClipConfig) -> None:
        # Both sides' towers are those of each alone; whether a low-rank change finds one to act on is not.
        known = one.modality in built or ("both" in built and not one.lora_rank)
        if not known and one.encoder == "tfidf" and one.modality != "text":
            materials.build_net(materials.frozen_image(one))
        elif not known and one.encoder == "towers":
            materials.build_net(one)
        built.add(one.modality)

    return build


def compared(
    config: HeadVariantConfig | PreprocessConfig, made: list[tuple[str, OptimizeClipConfig]], run: Recorder, entry_point: str, title: str
) -> dict[str, Any]:
    """Train every variant in a child run, unless a finished one is there; write and return the comparison."""
    check_limits(config)
    for _name, one in made:
        checks.check_training(one)
    rows = materials.load_rows(config)
    if config.part not in rows:
        raise UserError(f"part = {config.part}, but there are no such posts; give {config.part}_csv")
    run.dataset("posts", rows["train"].digest, config.train_csv or config.data_dir, "training")
    run.started()
    posts = rows[config.part]
    outcomes = [outcome(name, one, config, rows, run, entry_point) for name, one in made]
    groups = post_splits.groups_of(posts)
    tests = against_first(outcomes, posts.truth, groups)
    table = [row_of(one, posts, config.seed, groups) | test for one, test in zip(outcomes, tests, strict=True)]
    summary = {"part": config.part, "posts": len(posts), "rows": table, "best": best_of(table), "seeds": config.seeds}
    folder = scratch("comparison")
    try:
        write(folder, summary, f"{title}, {len(posts)} {config.part} posts")
        run.folder(folder, "comparison")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    run.metrics({f"{row['name']}/{score}": row[score][0] for row in table for score in SCORES}, 0)
    run.note(markdown(summary))
    print(text_of(summary))
    return summary


def outcome(name: str, config: OptimizeClipConfig, options: Any, rows: dict[str, Posts], run: Recorder, entry_point: str) -> Outcome:
    """Train a variant with every seed; return its predictions."""
    columns, runs = [], []
    for seed in range(config.seed, config.seed + options.seeds):
        one = dataclasses.replace(config, seed=seed)
        child = execute.Child(OPTIMIZE_CLIP, one, f"{entry_point} {name} seed {seed}", partial(optimize.begin, rows=rows))
        done = execute.required(execute.below(child, run)).finished
        columns.append(predictions_in(done.folder / "evaluation" / options.part / "predictions.csv", rows[options.part]))
        runs.append(done.run_id)
    return Outcome(name, np.stack(columns, axis=1), tuple(runs))


def predictions_in(path: Path, posts: Posts) -> np.ndarray:
    """Return (N,) class ids of a predictions.csv, in the order of the posts."""
    import pandas

    read = pandas.read_csv(path, dtype=str).set_index("guid")["predicted"]
    return np.array([posts.class_names.index(read[guid]) for guid in posts.guids])


def against_first(outcomes: Sequence[Outcome], labels: np.ndarray, groups: np.ndarray) -> list[dict[str, float | None]]:
    """Return `mcnemar_p` of each variant against the first, and `mcnemar_p_holm` for as many tests as there are; None of the first.

    The predictions of all seeds on the posts of a group (N,) are one trial.
    """
    first, *others = outcomes
    seeds = first.predicted.shape[1]
    stacked = np.tile(labels, seeds), np.tile(groups, seeds)
    raw = [compare.mcnemar(stacked[0], first.predicted.T.reshape(-1), one.predicted.T.reshape(-1), stacked[1]).p_value for one in others]
    pairs = [(None, None), *zip(raw, compare.holm(raw), strict=True)]
    return [{"mcnemar_p": p, "mcnemar_p_holm": corrected} for p, corrected in pairs]


def row_of(one: Outcome, posts: Posts, seed: int, groups: np.ndarray) -> dict[str, Any]:
    """Return name, (value, low, high) of each score (means over seeds; resampled are groups of posts), spread over seeds, runs."""
    row: dict[str, Any] = {"name": one.name, "runs": list(one.runs)}
    for name in SCORES:
        metric = mean_over_seeds(accuracy if name == "accuracy" else macro_f1)
        interval = compare.bootstrap_interval(posts.truth, one.predicted, metric, seed=seed, groups=groups)
        row[name] = [interval.value, interval.low, interval.high]
        single = [mean_over_seeds(accuracy if name == "accuracy" else macro_f1)(posts.truth, column[:, None]) for column in one.predicted.T]
        row[f"{name}_of_seeds"] = single
    return row


def mean_over_seeds(metric: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return the metric of predictions (N, S): its mean over the S columns."""
    return lambda labels, predicted: float(np.mean([metric(labels, column) for column in predicted.T]))


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of equal ids."""
    return float((labels == predicted).mean())


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean F1 of the classes among `labels`, as core.evaluation.classification defines it."""
    n_classes = int(max(labels.max(), predicted.max())) + 1
    table = np.bincount(labels * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)
    support = table.sum(axis=1)
    f1 = 2 * table.diagonal() / np.maximum(support + table.sum(axis=0), 1)
    return float(f1[support > 0].mean())


def best_of(table: Sequence[dict[str, Any]]) -> str:
    """Return the name of the row with the highest macro-F1, the first of equals."""
    return max(table, key=lambda row: row["macro_f1"][0])["name"]


def write(folder: Path, summary: dict[str, Any], title: str) -> None:
    """Write table.csv, comparison.json and bars.png."""
    (folder / "comparison.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
    flat = [
        {"name": row["name"]}
        | {f"{score}{end}": f"{value:.4f}" for score in SCORES for end, value in zip(("", "_low", "_high"), row[score], strict=True)}
        | {name: "" if row[name] is None else f"{row[name]:.4g}" for name in ("mcnemar_p", "mcnemar_p_holm")}
        for row in summary["rows"]
    ]
    evaluate.write_table(folder / "table.csv", flat)
    figure.save(comparison_bars.comparison_bars(summary["rows"], SCORES, title), folder / "bars.png")


def text_of(summary: dict[str, Any]) -> str:
    """Return the table that is printed."""
    lines = [f"{summary['part']} posts".ljust(24) + "".join(f"{score.replace('_', ' '):>26s}" for score in SCORES) + P_TITLE.rjust(34)]
    for row in summary["rows"]:
        lines.append(f"  {row['name']}".ljust(24) + "".join(f"{_cell(row[score]):>26s}" for score in SCORES) + _p(row).rjust(34))
    return "\n".join(lines)


def markdown(summary: dict[str, Any]) -> str:
    """Return the table as the run's description."""
    rows = [f"| {row['name']} | " + " | ".join(_cell(row[score]) for score in SCORES) + f" | {_p(row)} |" for row in summary["rows"]]
    head = [f"| variant | accuracy | macro-F1 | {P_TITLE} |", "|---|---|---|---|"]
    return "\n".join(
        [f"**{summary['posts']} {summary['part']} posts**, 95 % intervals", "", *head, *rows, "", "Picture: `comparison/bars.png`."]
    )


def _cell(values: Sequence[float]) -> str:
    return f"{values[0]:.3f} ({values[1]:.3f}-{values[2]:.3f})"


def _p(row: dict[str, Any]) -> str:
    """Return McNemar's p value as it is and, in brackets, corrected by Holm for all rows; '' of the first row."""
    return "" if row["mcnemar_p"] is None else f"{row['mcnemar_p']:.3g} ({row['mcnemar_p_holm']:.3g})"
