"""The reference line: n-grams with logistic regression, and the frozen image tower's features beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from core.models.ngrams import NgramClassifier, NgramSettings
from core.models.post_net import PostNet
from core.serving.posts import NgramPredictor
from core.stages import after
from core.stages.posts import materials, publish
from core.stages.posts.config import OptimizeClipConfig
from core.stages.posts.materials import Materials
from core.tracking.recorder import Recorder


def fit(config: OptimizeClipConfig, m: Materials) -> publish.Fitted:
    """Fit on the training rows; return the predictor and the probabilities (N, C) of the other parts."""
    net, seen = image_side(config, m)
    texts = m.texts["train"] if config.modality != "image" else None
    model = NgramClassifier.fit(settings_of(config), texts, seen["train"], m.rows["train"].truth, len(m.class_names))
    probabilities = {part: model.probabilities(m.texts[part], seen[part]) for part in m.rows if part != "train"}
    title = f"n-grams, {config.modality}: {len(m.rows['train'])} training posts"
    return publish.Fitted(predictor(config, m, model, net), probabilities, title)


def settings_of(config: OptimizeClipConfig) -> NgramSettings:
    """Return what is counted, and how strongly each regression is held back."""
    return NgramSettings(
        config.word_ngrams,
        config.char_ngrams,
        config.min_count,
        config.regularisation,
        config.image_regularisation,
        config.image_share,
    )


def image_side(config: OptimizeClipConfig, m: Materials) -> tuple[PostNet | None, dict[str, np.ndarray | None]]:
    """Return the frozen image tower and its features (N, d) by part; None for each where texts alone are seen."""
    if config.modality == "text":
        return None, dict.fromkeys(m.rows)
    net = materials.build_net(materials.frozen_image(config), m.class_names)
    net = net.to(m.device).to(memory_format=torch.channels_last)
    return net, {part: m.image_features(net, part) for part in m.rows}


def predictor(config: OptimizeClipConfig, m: Materials, model: NgramClassifier, net: PostNet | None) -> NgramPredictor:
    """Return the classifier of a model and the image tower whose features it was fitted on."""
    build = None if net is None else materials.build_arguments(materials.frozen_image(config), net)
    visual = None if net is None or net.visual is None else net.visual.cpu()
    about = publish.about_of(m, build) | {"encoder": "tfidf"}
    found = NgramPredictor(model, visual, None if net is None else net.reading, about)
    found.lineage = m.lineage
    return found


def train(
    config: OptimizeClipConfig, rows: dict[str, Any], key: str, run: Recorder, unfinished: after.Unfinished | None = None
) -> dict[str, Any]:
    """Fit, evaluate and publish, or do what was left to be done after that (fitting takes moments); return the summary."""
    m = materials.gather(config, rows)
    return publish.in_one_go(m, key, run, unfinished, lambda _folder: fit(config, m))


def predictor_of(config: OptimizeClipConfig, rows: dict[str, Any]) -> NgramPredictor:
    """Fit on given rows and return the predictor."""
    return fit(config, materials.gather(config, rows)).predictor
