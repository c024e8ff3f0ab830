"""From a pipeline's best checkpoint to a registered model: backbone, cluster centres and the clusters' names."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

import numpy as np

from core.data.images import DiscoveryData
from core.data.splits import Split
from core.evaluation.discovery import Clustering
from core.serving import discovery as serving
from core.serving.images import example
from core.stages import held_out as held
from core.stages.discovery.config import DataOptions
from core.stages.discovery.materials import load_data
from core.stages.discovery.rebuild import Trained
from core.stages.held_out import HeldOut
from core.tracking import registry
from core.tracking.identity import Identity
from core.tracking.recorder import Recorder
from core.tracking.store import scratch

# What the model takes and gives, as MLflow types.
COLUMNS = ({"image": "string"}, {"class": "string", "confidence": "double", "cluster": "long", "known": "boolean"})
METRIC = "accuracy"  # of held-out known-class images, all that training may know of; promotion asks about test images of all classes


def register(run: Recorder, trained: Trained, model: Any, spec: Any, found: Clustering, metrics: dict[str, float]) -> str:
    """Register `taxon-discovery-<data>` (core.tracking.identity) and return its URI (models:/<name>/<version>).

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
            identity(data),
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def evaluation(trained: Trained, clusters: list[dict[str, Any]], found: Clustering) -> registry.Evaluation | None:
    """Return how the served answers do on the held-out labelled images; None where nothing is held out."""
    data, split = trained.data, trained.split
    val, test = (_part(data, split, part) for part in held.PARTS)
    if not len(val):
        return None
    answers = [clusters[cluster]["name"] for cluster in found.train[split.validation[list(val.kept)]]]
    took_part = np.concatenate([split.labelled, split.unlabelled])
    return registry.Evaluation(
        "discovery",
        METRIC,
        held.scores(val.labels, answers),
        val.digest,
        {f.name: getattr(trained.config, f.name) for f in dataclasses.fields(DataOptions)},
        trained.config.select_by,
        (*held.contents(data.train, took_part), *sorted(trained.state.lineage.learnt)),
        test.digest if len(test) else "",
    )


def identity(data: DiscoveryData) -> Identity:
    """Return which models may replace those of a data set: of the same known and novel classes, on the same images."""
    known, novel = ([data.class_names[c] for c in classes] for classes in (data.known_classes, data.novel_classes))
    return Identity.of(known, (*held.everything(data.train), *held.everything(data.test)), novel)


def held_out(options: dict[str, Any], part: str) -> HeldOut:
    """Return what a training with these data options does not train on: labelled images of known classes, or the test images."""
    data, split = load_data(DataOptions(**options))
    return _part(data, split, part)


def _part(data: DiscoveryData, split: Split, part: str) -> HeldOut:
    """Return the held-out labelled images or, of all classes, the test images, without those that training holds too."""
    if part == "val":
        seen = held.contents(data.train, np.concatenate([split.labelled, split.unlabelled]))
        return held.of_images(data.train, split.validation, data.class_names, set(seen))
    novel = [data.class_names[c] for c in data.novel_classes]
    return held.of_images(data.test, np.arange(len(data.test)), data.class_names, set(held.everything(data.train)), novel=novel)
