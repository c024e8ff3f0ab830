"""Evaluating a classifier on one part of its data: figures, tables, pictures; shared by training and `evaluate_longtail`."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax
from scipy.special import softmax as scipy_softmax
from sklearn.metrics import accuracy_score, f1_score, recall_score

from core import lineage
from core.data.classification import ClassificationData, tail_classes
from core.errors import UserError
from core.evaluation import classification, compare, linear_probe
from core.plots import class_bars, class_confusion, figure, reliability
from core.plots import mistakes as mistake_plots
from core.stages import leakage
from core.stages.longtail.config import LongtailEvaluateConfig
from core.tracking.store import scratch

Score = Callable[[np.ndarray, np.ndarray], float]
ENTRY_POINT = "evaluate_longtail"
SHOWN = ("accuracy", "balanced_accuracy", "tail_accuracy", "macro_f1")
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


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return float64 probabilities (N, C) of logits."""
    return scipy_softmax(np.asarray(logits, np.float64), axis=1)


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean -log p of the labels in nats."""
    return float(-log_softmax(np.asarray(logits, np.float64), axis=1)[np.arange(len(labels)), labels].mean())


def scorer(metric: str, n_classes: int, class_counts: np.ndarray) -> Score:
    """Return score(labels, predictions) of a selection metric; classes without samples do not count."""
    tail = tail_classes(class_counts)

    def recalls(labels: np.ndarray, predicted: np.ndarray, among: np.ndarray) -> float:
        present = np.intersect1d(among, labels)
        return float(recall_score(labels, predicted, labels=present, average="macro", zero_division=0)) if len(present) else 0.0

    scores: dict[str, Score] = {
        "accuracy": lambda labels, predicted: float(accuracy_score(labels, predicted)),
        "balanced_accuracy": lambda labels, predicted: recalls(labels, predicted, np.arange(n_classes)),
        "tail_accuracy": lambda labels, predicted: recalls(labels, predicted, tail),
        "macro_f1": lambda labels, predicted: float(
            f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
        ),
    }
    return scores[metric]


def probe(data: ClassificationData, features: dict[str, np.ndarray], score: Score) -> dict[str, float]:
    """Return `val/accuracy`, ... of a linear probe on the features of each part {part: (N, d)}; it is fitted on train."""
    val = features.get("val", np.zeros((0, features["train"].shape[1])))
    fitted = linear_probe.fit(features["train"], data.train.labels, val, data.val.labels, score)
    found = {}
    for part in features.keys() - {"train"}:
        labels, probabilities = getattr(data, part).labels, fitted.probabilities(features[part], len(data.class_names))
        scores = classification.report(labels, probabilities, data.class_names, data.class_counts, data.attributes).metrics
        found |= {f"{part}/{name}": value for name, value in scores.items()}
    return found


def table(name: str, metrics: dict[str, float], epoch: int) -> str:
    """Return what a training prints at its end."""
    lines = [f"{name}: best epoch {epoch}".ljust(36) + "".join(f"{title.replace('_', ' '):>20s}" for title in SHOWN)]
    for title, prefix in (
        ("val", "best/val"),
        ("test", "best/test"),
        ("val, linear probe", "probe/val"),
        ("test, linear probe", "probe/test"),
    ):
        if f"{prefix}/accuracy" in metrics:
            values = (metrics.get(f"{prefix}/{metric}") for metric in SHOWN)
            lines.append(f"  {title}".ljust(36) + "".join(f"{'n/a' if value is None else f'{value:.3f}':>20s}" for value in values))
    return "\n".join(lines)


def note(data: ClassificationData, metrics: dict[str, float], epoch: int, model: str) -> str:
    """Return the description shown at the top of the run's page, as Markdown."""
    rows = ["| part | " + " | ".join(title.replace("_", " ") for title in SHOWN) + " |", "|---|" + "---|" * len(SHOWN)]
    for part in ("val", "test"):
        if f"best/{part}/accuracy" in metrics:
            rows.append(f"| {part} | " + " | ".join(f"{metrics.get(f'best/{part}/{t}', float('nan')):.3f}" for t in SHOWN) + " |")
    counts = data.class_counts
    about = f"**{data.name}**: {len(data.train)} training images, {len(counts)} classes, {counts.max()} down to {counts.min()} images."
    pictures = "Pictures: `evaluation/test/` (per_class.png, confusion.png, reliability.png, worst_mistakes.png), `plots/curves.png`."
    return "\n".join([about, "", *rows, "", f"Best epoch {epoch}. {f'Registered as `{model}`.' if model else ''} {pictures}"])


def run(config: LongtailEvaluateConfig, run: Any) -> dict[str, Any]:
    """Run `evaluate_longtail`: one checkpoint on one part, with 95 % bootstrap intervals and pictures."""
    from core.stages import held_out
    from core.stages.longtail import rebuild

    trained = rebuild.open_checkpoint(config)
    images = trained.m.part(config.part)
    if not len(images):
        raise UserError(f"part = {config.part}: the data has no such images; give {config.part}_dir or {config.part}_meta")
    items = lineage.items_of(held_out.contents(images, np.arange(len(images))))
    leakage.evaluated(trained.lineage, items, config.part, "images", "checkpoint", config.checkpoint)
    run.dataset(trained.m.data.name, trained.m.data.digest, config.data_root or config.train_dir, "evaluation")
    run.started()
    logits = trained.m.outputs(trained.model, config.part, trained.size)["label"]
    folder = scratch("evaluation")
    try:
        found = draw(trained.m, config.part, logits, folder, config.worst)
        intervals = _intervals(images.labels, logits, config.seed)
        (folder / "intervals.json").write_text(json.dumps(intervals, indent=1, sort_keys=True) + "\n")
        run.folder(folder, f"evaluation/{config.part}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    metrics = {f"best/{config.part}/{name}": value for name, value in found.metrics.items()}
    run.metrics(metrics, trained.epoch)
    run.tags({"taxon.data": trained.m.data.name, "taxon.checkpoint": trained.path.name})
    run.note(note(trained.m.data, metrics, trained.epoch, ""))
    print(table(trained.m.data.name, metrics, trained.epoch))
    for name, (low, high) in intervals.items():
        print(f"  {name.replace('_', ' ')}: 95 % interval {low:.3f} to {high:.3f}")
    if found.unscored:
        print(f"  without images, not scored: {', '.join(found.unscored)}")
    return {"metrics": found.metrics, "intervals": intervals}


def _intervals(labels: np.ndarray, logits: np.ndarray, seed: int) -> dict[str, tuple[float, float]]:
    predicted = logits.argmax(axis=1)
    found = {name: compare.bootstrap_interval(labels, predicted, name, seed=seed) for name in ("accuracy", "balanced_accuracy", "macro_f1")}
    return {name: (interval.low, interval.high) for name, interval in found.items()}


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
