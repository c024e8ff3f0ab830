"""Where a classifier of posts goes wrong: error rates by text length, emoji, image area, script and class, with intervals."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from core.data import bad_cases, post_facts
from core.data.posts import Posts
from core.errors import UserError
from core.evaluation import error_rates
from core.evaluation.error_rates import ErrorRate
from core.plots import class_confusion, figure
from core.plots import error_rates as plots
from core.stages.inputs import file_at
from core.stages.posts import model, results
from core.stages.posts.config_tools import ErrorAnalysisConfig
from core.tracking.recorder import Recorder

ENTRY_POINT = "error_analysis"
FOLDER = "error_analysis"


def run(config: ErrorAnalysisConfig, run: Recorder) -> dict[str, Any]:
    """Write error_analysis/errors.json, errors.csv, predictions.csv and pictures; return the report."""
    if bool(config.weights) == bool(config.badcase_csv):
        raise UserError("give either weights (its errors on a part) or badcase_csv (errors that were mined), one of the two")
    with results.made_in(run, FOLDER, config.output_dir) as (folder, publish):
        posts = results.read_part(config, config.part)
        predicted = _predictions(config, posts)
        run.dataset(f"posts/{config.part}", posts.digest, config.data_root, config.part)
        overall, panels = analyse(posts, predicted)
        write(folder, posts, predicted, overall, panels)
        report: dict[str, Any] = {
            "part": config.part,
            "posts": len(posts),
            "data_digest": posts.digest,
            "overall": asdict(overall),
            "groups": {title: [asdict(rate) for rate in rates] for title, rates in panels.items()},
            "metrics": {"errors/rate": overall.rate, "errors/posts": float(overall.n)},
        }
        (folder / "errors.json").write_text(json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        publish(report)
    run.metrics(report["metrics"], 0)
    print(summary_of(config.part, overall, panels))
    return report


def _predictions(config: ErrorAnalysisConfig, posts: Posts) -> tuple[str, ...]:
    """Return the predicted class name of each post; UserError for bad cases that are not among the posts."""
    if config.weights:
        predictor = model.open_predictor(config.weights)
        results.require_fair(predictor, posts, config.part, "weights", config.weights)
        probabilities = predictor.probabilities(posts.texts, model.pictures(predictor, posts))
        return tuple(predictor.class_names[c] for c in probabilities.argmax(axis=1))
    path = file_at(config.badcase_csv, "badcase_csv", "bad_cases*.csv")
    cases = bad_cases.read(path, config.data_root)
    foreign = sorted(set(cases.posts.guids) - set(posts.guids))
    if foreign:
        raise UserError(
            f"{path} holds posts {results.named(foreign)}, which are not in the {config.part} part; give the part that was mined"
        )
    unnamed = [guid for guid, name in zip(cases.posts.guids, cases.predicted, strict=True) if name not in posts.class_names]
    if unnamed:
        raise UserError(f"{path} has no known pred_label for {results.named(unnamed)}; give one of {', '.join(posts.class_names)}")
    said = dict(zip(cases.posts.guids, cases.predicted, strict=True))
    return tuple(said.get(guid, tag) for guid, tag in zip(posts.guids, posts.tags, strict=True))


def analyse(posts: Posts, predicted: tuple[str, ...]) -> tuple[ErrorRate, dict[str, list[ErrorRate]]]:
    """Return the overall error rate, and that of every group by title of the grouping."""
    wrong = np.array(predicted, object) != np.array(posts.tags, object)
    overall = error_rates.error_rate("all", int(wrong.sum()), len(wrong))
    groups = post_facts.groupings(posts, predicted)
    return overall, {title: error_rates.by_group(wrong, names, order) for title, (names, order) in groups.items()}


def write(folder: Path, posts: Posts, predicted: tuple[str, ...], overall: ErrorRate, panels: dict[str, list[ErrorRate]]) -> None:
    """Write errors.csv, predictions.csv, error_rates.png and confusion.png."""
    with open(folder / "errors.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["grouping", "group", "posts", "errors", "rate", "low", "high"])
        for title, rates in {"all": [overall], **panels}.items():
            writer.writerows(
                [title, r.group, r.n, r.errors, *("" if v is None else f"{v:.6f}" for v in (r.rate, r.low, r.high))] for r in rates
            )
    with open(folder / "predictions.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["guid", "true_label", "pred_label"])
        writer.writerows(zip(posts.guids, posts.tags, predicted, strict=True))
    figure.save(plots.error_rates(panels, overall), folder / "error_rates.png")
    ids = np.array([posts.class_names.index(name) for name in predicted], np.int64)
    figure.save(class_confusion.class_confusion(posts.truth, ids, posts.class_names), folder / "confusion.png")


def summary_of(part: str, overall: ErrorRate, panels: dict[str, list[ErrorRate]]) -> str:
    """Return the lines that are printed: each group with its count, rate and interval."""
    lines = [f"{part}: {overall.errors} errors in {overall.n} posts, {_said(overall)}"]
    for title, rates in panels.items():
        lines.append(title)
        lines += [f"  {rate.group:16s}{rate.n:6d}  {_said(rate)}" for rate in rates if rate.n]
    return "\n".join(lines)


def _said(rate: ErrorRate) -> str:
    return f"{rate.rate:.3f} [{rate.low:.3f}, {rate.high:.3f}]"
