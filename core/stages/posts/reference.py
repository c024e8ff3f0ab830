"""The reference line: n-grams with logistic regression, and the frozen image tower's features beside them."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import torch

from core import config as configuration
from core.models.ngrams import NgramClassifier, NgramSettings
from core.models.post_net import PostNet
from core.serving.posts import NgramPredictor
from core.stages import after
from core.stages.posts import materials, publish
from core.stages.posts.config import OptimizeClipConfig
from core.stages.posts.materials import Materials
from core.tracking.recorder import Recorder


def fit(config: OptimizeClipConfig, m: Materials) -> tuple[NgramPredictor, dict[str, np.ndarray]]:
    """Fit on the training rows; return the predictor and the probabilities (N, C) of the other parts."""
    net = materials.build_net(materials.frozen_image(config), m.class_names) if config.modality != "text" else None
    seen = {part: None if net is None else m.image_features(_on(net, m.device), part) for part in m.rows}
    read = config.modality != "image"
    settings = NgramSettings(
        config.word_ngrams,
        config.char_ngrams,
        config.min_count,
        config.regularisation,
        config.image_regularisation,
        config.image_share,
    )
    labels = m.rows["train"].truth
    model = NgramClassifier.fit(settings, m.texts["train"] if read else None, seen["train"], labels, len(m.class_names))
    probabilities = {part: model.probabilities(m.texts[part], seen[part]) for part in m.rows if part != "train"}
    build = None if net is None else materials.build_arguments(materials.frozen_image(config), net)
    visual = None if net is None or net.visual is None else net.visual.cpu()
    predictor = NgramPredictor(model, visual, None if net is None else net.reading, publish.about_of(m, build))
    predictor.lineage = m.lineage
    return predictor, probabilities


def _on(net: PostNet, device: torch.device) -> PostNet:
    return net.to(device).to(memory_format=torch.channels_last)


def train(
    config: OptimizeClipConfig, rows: dict[str, Any], key: str, run: Recorder, unfinished: after.Unfinished | None = None
) -> dict[str, Any]:
    """Fit, evaluate and publish, or do what was left to be done after that (fitting takes moments); return the summary."""
    from core.tracking import stage

    m = materials.gather(config, rows)
    folder = stage.work_folder(key)
    run.started()
    predictor, probabilities = fit(config, m)
    metrics = publish.evaluated(m, probabilities)
    run.metrics(metrics, 1)
    publish.write_predictor(folder, predictor, metrics)
    title = f"n-grams, {config.modality}: {len(rows['train'])} training posts"
    summary = {"epoch": 1, "predictor": publish.PREDICTOR, "best_metrics": metrics, "model": "", "best": score(config, metrics)}
    (folder / "config.json").write_text(json.dumps(configuration.canonical(config), indent=1, sort_keys=True) + "\n")
    tags = {stage.KEY_TAG: key, "taxon.seed": config.seed, "taxon.select_by": config.select_by}
    steps = publish.steps(run, publish.Result(m, probabilities, metrics, title), predictor.about, folder)
    summary = after.settle(after.published(run, folder, summary, tags, steps, unfinished), steps)
    shutil.rmtree(folder, ignore_errors=True)
    return summary


def score(config: OptimizeClipConfig, metrics: dict[str, float]) -> dict[str, Any]:
    """Return epoch and validation score, as a training by epochs does."""
    name = "macro_f1" if config.select_by == "last" else config.select_by
    return {"epoch": 1, "score": metrics[f"best/val/{name}"]}


def predictor_of(config: OptimizeClipConfig, rows: dict[str, Any]) -> NgramPredictor:
    """Fit on given rows and return the predictor."""
    return fit(config, materials.gather(config, rows))[0]
