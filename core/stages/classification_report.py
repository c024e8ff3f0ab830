"""A classifier's figures on a part of its data, with tables and pictures; shared by long-tail and class-sentence trainings."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core.data.classification import ClassificationData
from core.evaluation import classification, linear_probe
from core.evaluation.gain import judge
from core.evaluation.scorer import Score, softmax
from core.plots import class_bars, class_confusion, figure, reliability
from core.plots import mistakes as mistake_plots
from core.stages.held_out import everything

WORST = 24


def report(data: ClassificationData, part: str, logits: np.ndarray) -> classification.Report:
    """Return the report of logits (N, C) on a part of the data."""
    labels = getattr(data, part).labels
    return classification.report(labels, softmax(logits), data.class_names, data.class_counts, data.attributes)


def steps(
    m: Any, logits: dict[str, np.ndarray], reports: dict[str, classification.Report], folder: Path
) -> dict[str, Callable[[Any], None]]:
    """Return what a training does when its figures are published: write tables, draw pictures of each part's logits (N, C)."""

    def tables(_summary: Any) -> None:
        for part, found in logits.items():
            write_tables(m, part, found, reports[part], folder / part)

    def pictures(_summary: Any) -> None:
        for part, found in logits.items():
            draw_pictures(m, part, found, reports[part], folder / part)

    return {"tables": tables, "pictures": pictures}


def draw(m: Any, part: str, logits: np.ndarray, folder: Path, worst: int = WORST) -> classification.Report:
    """Write metrics.json, per_class.csv, predictions.csv and the pictures of a part's logits (N, C) into `folder`; return the report."""
    found = report(m.data, part, logits)
    write_tables(m, part, logits, found, folder)
    draw_pictures(m, part, logits, found, folder, worst)
    return found


def write_tables(m: Any, part: str, logits: np.ndarray, found: classification.Report, folder: Path) -> None:
    """Write metrics.json, per_class.csv and predictions.csv of a part's logits (N, C) and their report into `folder`."""
    data, images = m.data, getattr(m.data, part)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(found.metrics | {"unscored": found.unscored}, indent=1, sort_keys=True) + "\n")
    (folder / "per_class.csv").write_text(_csv(found.per_class))
    (folder / "predictions.csv").write_text(_csv(_predictions(data, images, softmax(logits))))


def draw_pictures(m: Any, part: str, logits: np.ndarray, found: classification.Report, folder: Path, worst: int = WORST) -> None:
    """Draw bars by class, confusion, calibration and the worst mistakes of a part's logits (N, C) and their report into `folder`."""
    data, images = m.data, getattr(m.data, part)
    labels, probabilities = images.labels, softmax(logits)
    predicted = probabilities.argmax(axis=1)
    folder.mkdir(parents=True, exist_ok=True)
    figure.save(class_bars.class_bars(found.per_class), folder / "per_class.png")
    figure.save(class_confusion.class_confusion(labels, predicted, data.class_names), folder / "confusion.png")
    figure.save(reliability.reliability(labels, probabilities), folder / "reliability.png")
    chosen = mistake_plots.worst_mistakes(labels, probabilities, worst)
    if len(chosen):
        thumbnails = m.thumbnails(part, chosen)
        names = data.class_names
        figure.save(
            mistake_plots.mistakes(
                thumbnails,
                [names[i] for i in labels[chosen]],
                [names[i] for i in predicted[chosen]],
                probabilities[chosen].max(axis=1),
                [images.ids[i] for i in chosen],
            ),
            folder / "worst_mistakes.png",
        )


def probe(data: ClassificationData, features: dict[str, np.ndarray], score: Score) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Return `val/accuracy`, ... and the answers (N,) by part of a linear probe on the features of each {part: (N, d)}, fitted on train."""
    val = features.get("val", np.zeros((0, features["train"].shape[1])))
    fitted = linear_probe.fit(features["train"], data.train.labels, val, data.val.labels, score)
    found: dict[str, float] = {}
    answers: dict[str, np.ndarray] = {}
    for part in features.keys() - {"train"}:
        labels, probabilities = getattr(data, part).labels, fitted.probabilities(features[part], len(data.class_names))
        scores = classification.report(labels, probabilities, data.class_names, data.class_counts, data.attributes).metrics
        found |= {f"{part}/{name}": value for name, value in scores.items()}
        answers[part] = probabilities.argmax(axis=1)
    return found, answers


def probe_gain(data: ClassificationData, answers: np.ndarray, logits: np.ndarray, metric: str, seed: int) -> dict[str, float]:
    """Return `gain`, `gain_low`, `gain_high`: how much better a probe's answers (M,) on validation are than a model's logits (M, C).

    The ends are those of the 95 % paired interval; copies of an image stand or fall together.
    """
    _names, groups = np.unique(everything(data.val), return_inverse=True)
    found = judge(data.val.labels, logits.argmax(axis=1), answers, metric, seed=seed, groups=groups).gain
    return {"gain": found.value, "gain_low": found.low, "gain_high": found.high}


def _predictions(data: ClassificationData, images: Any, probabilities: np.ndarray) -> list[dict[str, Any]]:
    best = probabilities.argmax(axis=1)
    return [
        {"image": name, "true": data.class_names[label], "predicted": data.class_names[p], "confidence": f"{probabilities[i, p]:.6f}"}
        for i, (name, label, p) in enumerate(zip(images.ids, images.labels, best, strict=True))
    ]


def _csv(rows: list[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
