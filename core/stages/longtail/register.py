"""From a long-tail training's best epoch to a registered model: what was scored is what is served."""

from __future__ import annotations

import shutil
from typing import Any

from core.serving import classifier as serving
from core.serving.images import example
from core.stages import held_out as held
from core.stages.held_out import HeldOut
from core.stages.longtail import materials
from core.stages.longtail.config import LongtailData
from core.tracking import registry
from core.tracking.store import scratch

# What the model takes and gives, as MLflow types.
COLUMNS = ({"image": "string"}, {"class": "string", "confidence": "double"})
METRIC = "balanced_accuracy"  # on validation images; accuracy alone would reward forgetting the rare classes


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
        serving.write(folder / "data", training.task.scored, training.m.spec(size), about, training.lineage)
        finite = {f"registered/{name}": value for name, value in metrics.items()}
        tags = {name: str(about[name]) for name in ("data", "data_digest", "epoch", "backbone", "loss_type")}
        return registry.register(
            training.run,
            registry.model_name("longtail", data.name),
            folder / "data",
            "core.serving.classifier",
            COLUMNS,
            example(data.train.source),
            finite,
            tags,
            evaluation(training, size),
            held.identity(data),
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def evaluation(training: Any, size: int) -> registry.Evaluation | None:
    """Return how the scored model does on the validation part; None where there is none."""
    data, config = training.m.data, training.config
    if not len(data.val):
        return None
    logits = training.m.outputs(training.task.scored, "val", size)["label"]
    answers = [data.class_names[best] for best in logits.argmax(axis=1)]
    return held.evaluation("longtail", METRIC, data, answers, config, LongtailData, training.lineage)


def held_out(options: dict[str, Any], part: str) -> HeldOut:
    """Return the validation or test images that these data options name."""
    unread = {} if part == "test" else {"test_dir": "", "test_meta": ""}
    return held.of_part(materials.load_data(LongtailData(**options | unread)), part)
