"""From a pipeline's best checkpoint to a registered model: backbone, cluster centres and the clusters' names."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np

from core.evaluation.discovery import Clustering
from core.serving import discovery as serving
from core.serving.images import example
from core.stages.rebuild import Trained
from core.tracking import registry
from core.tracking.run import Run
from core.tracking.store import scratch

# What the model takes and gives, as MLflow types.
COLUMNS = ({"image": "string"}, {"class": "string", "confidence": "double", "cluster": "long", "known": "boolean"})


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
    name = "taxon-discovery-" + data.name.replace("/", "-")
    tags = {key: str(about[key]) for key in ("data", "data_digest", "epoch", "model_name")}
    folder = scratch("predictor")
    try:
        serving.write(folder / "data", model, spec, found.result.centres, about)
        # Names of their own: MLflow stores a model's metrics on its run too, where these names are curves.
        finite = {f"registered/{key}": value for key, value in metrics.items() if key.startswith(("unlabelled/", "test/", "val/"))}
        return registry.register(run, name, folder / "data", "core.serving.discovery", COLUMNS, example(data.train.source), finite, tags)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
