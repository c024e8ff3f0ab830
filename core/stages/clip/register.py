"""From a SuperCLIP training's chosen epoch to a registered model: what was scored is what is served."""

from __future__ import annotations

import shutil
from typing import Any

from core.serving import clip as serving
from core.serving.images import example
from core.stages import held_out as held
from core.stages.clip import data as clip_data
from core.stages.clip import folds, materials
from core.stages.clip.config import ClipData
from core.stages.held_out import HeldOut
from core.tracking import registry
from core.tracking.store import scratch

# What the model takes and gives, as MLflow types.
COLUMNS = ({"image": "string"}, {"class": "string", "confidence": "double"})
METRIC = "balanced_accuracy"  # on validation images; accuracy alone would reward forgetting the rare classes


def register(training: Any, metrics: dict[str, float]) -> str:
    """Register the model of a training as `taxon-clip-<data>`; return its URI."""
    data, facts, config = training.m.data, training.facts, training.config
    about = {
        "image_encoder_name": config.image_encoder_name,
        "image_pretrained": config.image_pretrained,
        "text_encoder_name": config.text_encoder_name,
        "embed_dim": config.embed_dim,
        "class_names": list(data.class_names),
        "data": data.name,
        "data_digest": data.digest,
        "epoch": facts["best"]["epoch"],
    }
    folder = scratch("predictor")
    try:
        serving.write(folder / "data", training.task.model, training.m.spec, about, training.lineage)
        finite = {f"registered/{name}": value for name, value in metrics.items()}
        tags = {name: str(about[name]) for name in ("data", "data_digest", "epoch", "image_encoder_name", "text_encoder_name")}
        return registry.register(
            training.run,
            registry.model_name("clip", data.name),
            folder / "data",
            "core.serving.clip",
            COLUMNS,
            example(data.train.source),
            finite,
            tags,
            evaluation(training),
            held.identity(data),
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def evaluation(training: Any) -> registry.Evaluation | None:
    """Return how the model does on the validation part; None where there is none."""
    data, config = training.m.data, training.config
    if not len(data.val):
        return None
    answers = [data.class_names[best] for best in training.m.logits(training.task.model, "val").argmax(axis=1)]
    return held.evaluation("clip", METRIC, data, answers, config, ClipData, training.lineage)


def held_out(options: dict[str, Any], part: str) -> HeldOut:
    """Return the validation or test images that these data options name; those of one photograph stand or fall together."""
    config = ClipData(**options)
    pool = clip_data.load(config)
    rows = folds.parts(pool, config)
    return held.of_part(materials.parted(pool, rows), part, None if pool.groups is None else pool.groups[rows[part]])
