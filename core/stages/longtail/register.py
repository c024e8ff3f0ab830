"""From a long-tail training's best epoch to a registered model: what was scored is what is served."""

from __future__ import annotations

import shutil
from typing import Any

from core.serving import classifier as serving
from core.serving.images import example
from core.tracking import registry
from core.tracking.store import scratch

# What the model takes and gives, as MLflow types.
COLUMNS = ({"image": "string"}, {"class": "string", "confidence": "double"})


def register(training: Any, size: int, metrics: dict[str, float]) -> str:
    """Register the scored model of a training, for images of `size` pixels, as `taxon-longtail-<data>`; return its URI."""
    data, facts, config = training.m.data, training.facts, training.config
    about = {
        "backbone": config.backbone,
        "model_type": config.model_type,
        "loss_type": config.loss_type,
        "class_names": list(data.class_names),
        "data": data.name,
        "data_digest": data.digest,
        "epoch": facts["best"]["epoch"],
    }
    folder = scratch("predictor")
    try:
        serving.write(folder / "data", training.task.scored, training.m.spec(size), about)
        finite = {f"registered/{name}": value for name, value in metrics.items()}
        tags = {name: str(about[name]) for name in ("data", "data_digest", "epoch", "backbone", "loss_type")}
        name = "taxon-longtail-" + data.name.replace("/", "-")
        return registry.register(
            training.run, name, folder / "data", "core.serving.classifier", COLUMNS, example(data.train.source), finite, tags
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
