"""How a trained classifier of posts holds up when images and texts are damaged, in five severities.

The test part is the default: nothing is chosen by these figures, so they may be read off posts that nothing was fitted to.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.config import check_limits
from core.data import post_splits
from core.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from core.data.posts import Posts
from core.data.text_corruptions import TEXT_CORRUPTIONS, corrupt_text
from core.errors import UserError, nearest
from core.evaluation import compare
from core.plots import corruption_heatmap, figure
from core.progress import bar
from core.stages.posts import model, results
from core.stages.posts.config_tools import RobustnessConfig
from core.stages.posts.model import PostPredictor
from core.tracking.recorder import Recorder

ENTRY_POINT = "robustness_test"
FOLDER = "robustness"
SCORES = ("accuracy", "macro_f1")
_BLOCK = 128  # images that are damaged at once


def run(config: RobustnessConfig, run: Recorder) -> dict[str, Any]:
    """Write robustness/robustness.json, .csv and .png; return the figures of robustness.json."""
    chosen = chosen_corruptions(config.corruptions)
    check_limits(config)
    with results.made_in(run, FOLDER, config.output_dir) as (folder, publish):
        posts = sample(results.read_part(config, config.part), config.max_posts, config.seed)
        predictor = model.open_predictor(config.weights)
        results.require_fair(predictor, posts, config.part, "weights", config.weights)
        run.dataset(f"posts/{config.part}", posts.digest, config.data_root, config.part)
        report: dict[str, Any] = {"part": config.part, "posts": len(posts), "data_digest": posts.digest, "seed": config.seed}
        report |= damage(predictor, posts, chosen, config.seed)
        write(report, folder)
        flat = {f"{FOLDER}/clean_{name}": report["clean"][name]["value"] for name in SCORES}
        flat |= {f"{FOLDER}/{kind}_{name}": value for kind, values in report["summary"].items() for name, value in values.items()}
        metrics = {name: value for name, value in flat.items() if value is not None}
        publish(report | {"metrics": metrics})
    run.metrics(metrics, 0)
    print(summary_of(report))
    return report


def chosen_corruptions(names: str) -> list[tuple[str, str]]:
    """Return (kind, name) of the corruptions that a comma-separated list means, '' all; UserError for an unknown one."""
    known = {name: "image" for name in CORRUPTIONS} | {name: "text" for name in TEXT_CORRUPTIONS}
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(known)
    for name in wanted:
        if name not in known:
            raise UserError(f"corruptions: there is no '{name}'{nearest(name, known)} (choose from: {', '.join(known)})")
    return [(kind, name) for name, kind in known.items() if name in wanted]


def sample(posts: Posts, max_posts: int, seed: int) -> Posts:
    """Return at most `max_posts` posts (0 = all) in their order, drawn by `seed`."""
    if not max_posts or max_posts >= len(posts):
        return posts
    return posts.subset(np.sort(np.random.default_rng(seed).permutation(len(posts))[:max_posts]))


def damage(predictor: PostPredictor, posts: Posts, chosen: Sequence[tuple[str, str]], seed: int) -> dict[str, Any]:
    """Return `clean` scores with intervals, `cells` and the `summary` of (kind, corruption) pairs in all severities.

    What a classifier does not look at is not damaged. UserError when nothing is left.
    """
    seen = {kind for kind in ("image", "text") if getattr(predictor, f"needs_{kind}s", True)}
    chosen = [pair for pair in chosen if pair[0] in seen]
    if not chosen:
        raise UserError(f"the classifier sees {' and '.join(sorted(seen))} only, which none of the corruptions damages; name others")
    images = model.pictures(predictor, posts)
    right = predictor.probabilities(posts.texts, images).argmax(axis=1)
    groups = post_splits.groups_of(posts)
    clean = {name: vars(compare.bootstrap_interval(posts.truth, right, name, seed=seed, groups=groups)) for name in SCORES}
    damaged = bar(_damaged(posts, images, chosen, seed), "corruptions", total=len(chosen) * len(SEVERITIES))
    cells = []
    for cell, rows, texts, pixels in damaged:
        predicted = right.copy()
        if len(rows):
            predicted[rows] = predictor.probabilities(texts, pixels).argmax(axis=1)
        cells.append(cell | scores(posts.truth, predicted))
    return {"clean": clean, "cells": cells, "summary": summarise(cells, clean["accuracy"]["value"])}


def _damaged(
    posts: Posts, images: np.ndarray, chosen: Sequence[tuple[str, str]], seed: int
) -> Iterator[tuple[dict[str, Any], np.ndarray, Sequence[str], np.ndarray]]:
    """Yield what each cell is, the rows that it changes, their texts and their images; only one of the two is damaged."""
    for kind, name in chosen:
        for severity in SEVERITIES:
            cell = {"kind": kind, "corruption": name, "severity": severity}
            if kind == "text":
                texts = [corrupt_text(text, name, severity, seed, guid) for text, guid in zip(posts.texts, posts.guids, strict=True)]
                rows = np.array([i for i, text in enumerate(texts) if text != posts.texts[i]], np.int64)
                yield cell, rows, [texts[i] for i in rows], images[rows]
                continue
            blocks = [slice(start, start + _BLOCK) for start in range(0, len(images), _BLOCK)]
            parts = [corrupt(torch.from_numpy(images[block]), name, severity, seed, posts.guids[block]) for block in blocks]
            yield cell, np.arange(len(posts)), posts.texts, torch.cat(parts).numpy()


def scores(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return accuracy and macro-F1 of predictions (N,)."""
    weights = np.ones((1, len(labels)))
    return {name: float(compare.weighted_scores(name, weights, labels, predicted)[0]) for name in SCORES}


def summarise(cells: Sequence[dict[str, Any]], clean_accuracy: float) -> dict[str, dict[str, float | None]]:
    """Return, for image and text corruptions and all, the mean corruption error, absolute and relative to clean posts.

    After Hendrycks and Dietterich 2019 (arXiv:1903.12261), section 4: CE_c is the mean error over severities and mCE its mean over
    corruptions. They divide by AlexNet's; here `error_increase` = mCE - clean error and `error_ratio` = mCE / clean error (None when
    the clean error is 0) relate it to the same classifier on clean posts.
    """
    clean_error = 1 - clean_accuracy
    found = {}
    for kind in ("image", "text", "all"):
        errors: dict[str, list[float]] = {}
        for cell in cells:
            if kind in (cell["kind"], "all"):
                errors.setdefault(cell["corruption"], []).append(1 - cell["accuracy"])
        if errors:
            mce = float(np.mean([np.mean(values) for values in errors.values()]))
            ratio = mce / clean_error if clean_error else None
            found[kind] = {"mean_corruption_error": mce, "error_increase": mce - clean_error, "error_ratio": ratio}
    return found


def write(report: dict[str, Any], folder: Path) -> None:
    """Write robustness.json, robustness.csv and robustness.png."""
    (folder / "robustness.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    with open(folder / "robustness.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["kind", "corruption", "severity", *SCORES])
        writer.writeheader()
        clean = {name: report["clean"][name]["value"] for name in SCORES}
        writer.writerows([{"kind": "clean", "corruption": "", "severity": 0} | clean, *report["cells"]])
    about = f"{report['posts']} {report['part']} posts under corruptions"
    figure.save(corruption_heatmap.corruption_heatmap(report["cells"], clean, about), folder / "robustness.png")


def summary_of(report: dict[str, Any]) -> str:
    """Return the lines that are printed: clean, each corruption over its severities, mean corruption errors."""
    clean = report["clean"]
    said = "  ".join(f"{name} {clean[name]['value']:.3f} [{clean[name]['low']:.3f}, {clean[name]['high']:.3f}]" for name in SCORES)
    lines = [
        f"{report['posts']} {report['part']} posts, clean: {said}",
        f"{'accuracy at severity':24s}" + "".join(f"{s:>8d}" for s in SEVERITIES),
    ]
    rows: dict[str, list[str]] = {}
    for cell in report["cells"]:
        rows.setdefault(f"{cell['kind']} {cell['corruption']}", []).append(f"{cell['accuracy']:8.3f}")
    lines += [f"{name:24s}{''.join(values)}" for name, values in rows.items()]
    for kind, values in report["summary"].items():
        ratio = "" if values["error_ratio"] is None else f", {values['error_ratio']:.2f} x the clean error"
        lines.append(f"mean corruption error, {kind}: {values['mean_corruption_error']:.3f} ({values['error_increase']:+.3f}{ratio})")
    return "\n".join(lines)
