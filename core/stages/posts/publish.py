"""What is done with a trained classifier of any kind: evaluate it once, draw, store, register."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core import config as configuration
from core.models.post_head_names import BLEND
from core.serving import posts as serving
from core.stages import after
from core.stages.posts import checks, evaluate, register
from core.stages.posts.checks import MODALITIES
from core.stages.posts.materials import Materials
from core.tracking import served
from core.tracking.recorder import Recorder

PREDICTOR = "predictor"
MEMBERS = "members"  # checkpoints of what a classifier is made of, while it is being fitted


@dataclass(frozen=True)
class Result:
    """A trained classifier's figures on the parts that it was not trained on.

    Attributes:
        m: materials.
        probabilities: (N, C) by part.
        metrics: `best/<part>/<name>`, and what else is shown beside the model.
        title: of note and table.
    """

    m: Materials
    probabilities: Mapping[str, np.ndarray]
    metrics: dict[str, float]
    title: str

    def of_part(self, part: str) -> dict[str, float]:
        """Return a part's figures by name."""
        prefix = f"best/{part}/"
        return {name.removeprefix(prefix): value for name, value in self.metrics.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Fitted:
    """A classifier that was fitted in one go.

    Attributes:
        predictor: what answers.
        probabilities: (N, C) by part, of those that it was not fitted on.
        title: of note and table.
        metrics: what else is shown beside the model.
    """

    predictor: Any
    probabilities: Mapping[str, np.ndarray]
    title: str
    metrics: dict[str, float] = field(default_factory=dict)


def in_one_go(m: Materials, key: str, run: Recorder, unfinished: after.Unfinished | None, fit: Callable[[Path], Fitted]) -> dict[str, Any]:
    """Fit, evaluate and publish, or do what was left to be done after that; return the summary.

    fit: given a folder for what it may want to continue after a crash.
    """
    from core.tracking import stage

    config, folder = m.config, stage.work_folder(key)
    run.started()
    fitted = fit(folder / MEMBERS)
    metrics = evaluated(m, fitted.probabilities) | fitted.metrics
    run.metrics(metrics, 1)
    write_predictor(folder, fitted.predictor, metrics)
    shutil.rmtree(folder / MEMBERS, ignore_errors=True)
    score = metrics[f"best/val/{checks.watched(config)}"]
    summary = {"epoch": 1, "predictor": PREDICTOR, "best_metrics": metrics, "model": "", "best": {"epoch": 1, "score": score}}
    (folder / "config.json").write_text(json.dumps(configuration.canonical(config), indent=1, sort_keys=True) + "\n")
    tags = {stage.KEY_TAG: key, "taxon.seed": config.seed, "taxon.select_by": config.select_by}
    result = Result(m, fitted.probabilities, metrics, fitted.title)
    left = steps(run, result, fitted.predictor.about, folder)
    summary = after.settle(after.published(run, folder, summary, tags, left, unfinished), left)
    shutil.rmtree(folder, ignore_errors=True)
    return summary


def evaluated(m: Materials, probabilities: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the metrics `best/<part>/<name>` of probabilities (N, C) by part."""
    return {
        f"best/{part}/{name}": value
        for part, found in probabilities.items()
        for name, value in evaluate.figures_of(m.rows[part], found, m.class_counts, m.config.seed).items()
    }


def write_predictor(folder: Path, predictor: Any, metrics: dict[str, float]) -> None:
    """Write the predictor into `folder`/predictor, sealed as it is served; `metrics` are the result's."""
    predictor.about |= {name: value for name, value in metrics.items() if name.startswith("best/val/")}
    serving.write(folder / PREDICTOR, predictor)
    served.seal(folder / PREDICTOR, serving.__name__)


def steps(run: Recorder, result: Result, about: dict[str, Any], folder: Path) -> after.Steps:
    """Return what comes after a classifier is published: tables, pictures, registration where it is asked for, note.

    about: what the predictor in `folder` says of itself.
    """
    m = result.m

    def tables(_summary: Any) -> None:
        for part, found in result.probabilities.items():
            evaluate.write_tables(m.rows[part], found, m.class_counts, folder / "evaluation" / part, result.of_part(part))

    def pictures(_summary: Any) -> None:
        for part, found in result.probabilities.items():
            evaluate.draw_pictures(m.rows[part], found, folder / "evaluation" / part)

    def registration(_summary: Any) -> dict[str, str]:
        evaluation = register.evaluation(m, result.probabilities["val"])
        return {"model": register.register(run, folder / PREDICTOR, m.rows, result.metrics, about, evaluation)}

    def note(summary: dict[str, Any]) -> str:
        print(evaluate.table(result.title, result.metrics))
        return evaluate.note(result.title, result.metrics, summary.get("model", ""))

    asked = {after.REGISTRATION: registration} if m.config.register else {}
    return after.Steps({"tables": tables, "pictures": pictures, **asked}, note)


def about_of(m: Materials, build: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a predictor's folder says of itself."""
    c = m.config
    return {
        "encoder": BLEND if checks.blends(c) else c.encoder,
        "modality": c.modality,
        "modalities": MODALITIES[c.modality],
        "head_variant": c.head_variant,
        "class_names": list(m.class_names),
        "class_counts": m.class_counts.tolist(),
        "cleaning": c.cleaning,
        "image_size": c.image_size,
        "seed": c.seed,
        "build": build,
    }
