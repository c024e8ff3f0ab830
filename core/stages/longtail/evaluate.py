"""The stage `evaluate_longtail`, and what a long-tail training prints and notes of its figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from core import lineage
from core.data.classification import ClassificationData
from core.errors import UserError
from core.evaluation import compare
from core.evaluation.gain import ROUNDING
from core.stages import classification_report, leakage
from core.stages.longtail.config import LongtailEvaluateConfig
from core.tracking.recorder import Recorder
from core.tracking.store import scratch

ENTRY_POINT = "evaluate_longtail"
GAIN = ("gain", "gain_low", "gain_high")
SHOWN = ("accuracy", "balanced_accuracy", "tail_accuracy", "macro_f1")


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


def beaten(metrics: Mapping[str, float], metric: str) -> str:
    """Return the line that says that the linear probe is surely better than the model on validation by `metric`; '' = it is not."""
    if not metrics.get("probe/gain_low", 0.0) > ROUNDING:
        return ""
    own, probe, gain, low, high = (
        metrics[name] for name in (f"best/val/{metric}", f"probe/val/{metric}", *(f"probe/{name}" for name in GAIN))
    )
    return (
        f"a linear probe on the network before this training is better: validation {metric.replace('_', ' ')} {probe:.3f} against "
        f"{own:.3f} of this model, {gain:+.3f} (95 % interval {low:+.3f} to {high:+.3f}); train longer or with another lr"
    )


def note(data: ClassificationData, metrics: dict[str, float], epoch: int, model: str, warning: str = "") -> str:
    """Return the description shown at the top of the run's page, as Markdown; `warning` is its second paragraph."""
    rows = ["| part | " + " | ".join(title.replace("_", " ") for title in SHOWN) + " |", "|---|" + "---|" * len(SHOWN)]
    for part in ("val", "test"):
        if f"best/{part}/accuracy" in metrics:
            rows.append(f"| {part} | " + " | ".join(f"{metrics.get(f'best/{part}/{t}', float('nan')):.3f}" for t in SHOWN) + " |")
    counts = data.class_counts
    about = f"**{data.name}**: {len(data.train)} training images, {len(counts)} classes, {counts.max()} down to {counts.min()} images."
    about += f" No validation part was given: {len(data.val)} images are split off the training part." if data.val_split_off else ""
    pictures = "Pictures: `evaluation/test/` (per_class.png, confusion.png, reliability.png, worst_mistakes.png), `plots/curves.png`."
    warned = ["", f"**Note: {warning}.**"] if warning else []
    return "\n".join([about, *warned, "", *rows, "", f"Best epoch {epoch}. {f'Registered as `{model}`.' if model else ''} {pictures}"])


def run(config: LongtailEvaluateConfig, run: Recorder) -> dict[str, Any]:
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
        found = classification_report.draw(trained.m, config.part, logits, folder, config.worst)
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
