"""From a pipeline's best checkpoint to a registered model: backbone, cluster centres and the clusters' names."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.data.problem import NOBODY_SAID, Problem, Truth
from core.data.splits import Split
from core.evaluation.discovery import Clustering
from core.serving import discovery as serving
from core.serving.images import example
from core.stages import held_out as held
from core.stages.discovery.config import DataOptions
from core.stages.discovery.materials import posed
from core.stages.discovery.rebuild import Trained
from core.stages.held_out import HeldOut
from core.tracking import registry
from core.tracking.identity import Identity
from core.tracking.recorder import Recorder
from core.tracking.store import scratch

# What the model takes and gives, as MLflow types.
COLUMNS = ({"image": "string"}, {"class": "string", "confidence": "double", "cluster": "long", "known": "boolean"})
METRIC = "accuracy"  # of held-out known-class images, all that training may know of; promotion asks about test images of all classes


@dataclass(frozen=True)
class Served:
    """What a registered model says beside the clusters.

    Attributes:
        clusters: `name`, `known` and `radius` (cosine distance within which 95 % of its images lie) of each cluster.
        temperature: of its confidences, calibrated on held-out images.
        metrics: figures shown beside it.
        test: digest of the test part, '' for none (`test_digest`).
        calibrated: whether enough images were held out to calibrate on.
    """

    clusters: list[dict[str, Any]]
    temperature: float
    metrics: dict[str, float]
    test: str = ""
    calibrated: bool = False


def register(run: Recorder, trained: Trained, model: Any, spec: Any, found: Clustering, served: Served) -> str:
    """Register `taxon-discovery-<data>` (core.tracking.identity) and return its URI (models:/<name>/<version>)."""
    data, split, clusters = trained.data, trained.split, served.clusters
    config = trained.config
    about = {
        "model_name": config.model_name,
        "grad_from_block": config.grad_from_block,
        "clusters": clusters,
        "data": data.name,
        "data_digest": data.digest,
        "split_digest": split.digest,
        "epoch": trained.state.epoch,
        "temperature": served.temperature,
        "calibrated": served.calibrated,
    }
    name = registry.model_name("discovery", data.name)
    tags = {key: str(about[key]) for key in ("data", "data_digest", "epoch", "model_name")}
    folder = scratch("predictor")
    try:
        serving.write(folder / "data", model, spec, found.result.centres, about, trained.state.lineage)
        # Names of their own: MLflow stores a model's metrics on its run too, where these names are curves.
        finite = {f"registered/{key}": value for key, value in served.metrics.items() if key.startswith(("unlabelled/", "test/", "val/"))}
        return registry.register(
            run,
            name,
            folder / "data",
            "core.serving.discovery",
            COLUMNS,
            example(data.train.source),
            finite,
            tags,
            evaluation(trained, clusters, found, served.test),
            identity(data),
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def evaluation(trained: Trained, clusters: list[dict[str, Any]], found: Clustering, test: str = "") -> registry.Evaluation | None:
    """Return how the served answers do on the held-out labelled images; None where nothing is held out."""
    data, split = trained.data, trained.split
    val = validation_part(data, split)
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
        test,
    )


def identity(data: Problem) -> Identity:
    """Return which models may replace those of a data set: of the same known and novel classes, on the same images."""
    return Identity.of(data.known_names, (*held.everything(data.train), *held.everything(data.test)), data.novel_names)


def held_out(options: dict[str, Any], part: str) -> HeldOut:
    """Return what a training with these data options does not train on: labelled images of known classes, or the test images."""
    data, split, truth = posed(DataOptions(**options))
    return validation_part(data, split) if part == "val" else test_part(data, truth)


def validation_part(data: Problem, split: Split) -> HeldOut:
    """Return the held-out labelled images, without those that training holds too."""
    seen = held.contents(data.train, np.concatenate([split.labelled, split.unlabelled]))
    return held.of_images(data.train, split.validation, data.known_names, set(seen))


def test_digest(data: Problem, truth: Truth) -> str:
    """Return the digest of the test part, '' where there is none."""
    found = test_part(data, truth)
    return found.digest if len(found) else ""


def test_part(data: Problem, truth: Truth) -> HeldOut:
    """Return the test images whose class is known, without those that training holds too: what only `promote` and figures may ask."""
    told = np.flatnonzero(truth.test != NOBODY_SAID)
    novel = [truth.class_names[c] for c in range(len(truth.class_names)) if c not in truth.known_classes]
    images = dataclasses.replace(data.test, labels=truth.test)
    return held.of_images(images, told, truth.class_names, set(held.everything(data.train)), novel=novel)
