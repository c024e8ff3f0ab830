"""What both kinds of encoder do with a trained classifier: evaluate it once, draw, store, register."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.serving import posts as serving
from core.stages.posts import evaluate, register
from core.stages.posts.checks import MODALITIES
from core.stages.posts.materials import Materials
from core.tracking import served

PREDICTOR = "predictor"


def evaluated(m: Materials, probabilities: Mapping[str, np.ndarray], folder: Path) -> dict[str, float]:
    """Write the evaluation of probabilities (N, C) by part into `folder`/<part>; return metrics `best/<part>/<name>`."""
    metrics = {}
    for part, found in probabilities.items():
        drawn = evaluate.draw(m.rows[part], found, m.class_counts, folder / part, m.config.seed)
        metrics |= {f"best/{part}/{name}": value for name, value in drawn.items()}
    return metrics


def stored(
    run: Any, m: Materials, predictor: Any, probabilities: Mapping[str, np.ndarray], metrics: dict[str, float], folder: Path, title: str
) -> str:
    """Write the predictor into `folder`/predictor, register it where the configuration asks for it; return the model's URI or ''.

    Args:
        probabilities: (N, C) by part, as scored. metrics: what `evaluated` made of them.
    """
    predictor.about |= {name: value for name, value in metrics.items() if name.startswith("best/val/")}
    serving.write(folder / PREDICTOR, predictor)
    served.seal(folder / PREDICTOR, serving.__name__)
    model = ""
    if m.config.register:
        evaluation = register.evaluation(m, probabilities["val"])
        model = register.register(run, folder / PREDICTOR, m.rows, metrics, predictor.about, evaluation)
    run.note(evaluate.note(title, metrics, model))
    print(evaluate.table(title, metrics))
    return model


def about_of(m: Materials, build: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a predictor's folder says of itself."""
    c = m.config
    return {
        "encoder": c.encoder,
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
