"""From a pipeline's best checkpoint to a registered model: backbone, cluster centres and the clusters' names."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

import numpy as np

from core.evaluation.discovery import Clustering
from core.serving import discovery as serving
from core.serving.images import example
from core.stages import held_out as held
from core.stages.config import DataOptions
from core.stages.held_out import HeldOut
from core.stages.materials import load_data
from core.stages.rebuild import Trained
from core.tracking import registry
from core.tracking.run import Run
from core.tracking.store import scratch

# What the model takes and gives, as MLflow types.
COLUMNS = ({"image": "string"}, {"class": "string", "confidence": "double", "cluster": "long", "known": "boolean"})
METRIC = "accuracy"  # of held-out known-class images: all that may be known of novel classes when a model is chosen


def register(run: Run, trained: Trained, model: Any, spec: Any, found: Clustering, metrics: dict[str, float]) -> str:
    """Register `taxon-discovery-<data>` and return its URI (models:/<name>/<version>).

    Clusters of labelled classes carry the class's name; the others are `novel 1`, `novel 2`, ...: no truth names them.
    """
    data, split = trained.data, trained.split
    labelled = np.unique(data.train.labels[split.labelled])
    names = [data.class_names[c] for c in labelled]
    novel = [f"novel {i + 1}" for i in range(len(found.result.centres) - len(names))]
    clusters = [{"name": name, "known": True} for name in names] + [{"name": name, "known": False} for name in novel]
    config = trained.config
    about = {
        "model_name": config.model_name,
        "grad_from_block": config.grad_from_block,
        "clusters": clusters,
        "data": data.name,
        "data_digest": data.digest,
        "split_digest": split.digest,
        "epoch": trained.state.epoch,
    }
    name = registry.model_name("discovery", data.name)
    tags = {key: str(about[key]) for key in ("data", "data_digest", "epoch", "model_name")}
    folder = scratch("predictor")
    try:
        serving.write(folder / "data", model, spec, found.result.centres, about, trained.state.lineage)
        # Names of their own: MLflow stores a model's metrics on its run too, where these names are curves.
        finite = {f"registered/{key}": value for key, value in metrics.items() if key.startswith(("unlabelled/", "test/", "val/"))}
        return registry.register(
            run,
            name,
            folder / "data",
            "core.serving.discovery",
            COLUMNS,
            example(data.train.source),
            finite,
            tags,
            evaluation(trained, clusters, found),
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def evaluation(trained: Trained, clusters: list[dict[str, Any]], found: Clustering) -> registry.Evaluation | None:
    """Return how the served answers do on the held-out labelled images; None where nothing is held out."""
    data, split = trained.data, trained.split
    if not len(split.validation):
        return None
    part = held.of_images(data.train, split.validation, data.class_names)
    answers = [clusters[cluster]["name"] for cluster in found.train[split.validation]]
    took_part = np.concatenate([split.labelled, split.unlabelled])
    return registry.Evaluation(
        "discovery",
        METRIC,
        held.scores(part.labels, answers),
        part.digest,
        {f.name: getattr(trained.config, f.name) for f in dataclasses.fields(DataOptions)},
        trained.config.select_by,
        (*held.contents(data.train, took_part), *sorted(trained.state.lineage.learnt)),
    )


def held_out(options: dict[str, Any]) -> HeldOut:
    """Return the labelled images that a training with these data options holds out: in no loss, of known classes."""
    data, split = load_data(DataOptions(**options))
    return held.of_images(data.train, split.validation, data.class_names)
