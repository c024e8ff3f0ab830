"""What a training draws its batches from: fresh views of the images, or kept outputs of the frozen trunk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from core import digest
from core.data.loader import ViewLoader, sampling_weights
from core.models.discovery import DiscoveryModel
from core.places import cache_home
from core.stages import keys
from core.stages.discovery.config import TrainConfig
from core.stages.discovery.materials import MAX_WORKERS, Materials
from core.tracking.store import machine_lock
from core.training import distributed, recipes
from core.training.view_cache import CachedViews, auto_views


def make(config: TrainConfig, m: Materials, model: DiscoveryModel, labelled: np.ndarray, n_kept: int) -> ViewLoader | CachedViews:
    """Return this rank's loader.

    Args:
        labelled: indices of the images whose class the training is told.
        n_kept: views of an image that are kept, 0 for fresh ones.
    """
    loader = ViewLoader(
        m.train_images,
        m.spec,
        recipes.settled(config.batch_size),
        config.n_views,
        sampling_weights(labelled, np.setdiff1d(m.split.unlabelled, labelled), len(m.data.train)),
        config.seed,
        distributed.rank(),
        distributed.world_size(),
        max(1, min(config.num_workers, MAX_WORKERS)),
    )
    if not n_kept:
        return loader
    file = _cache_file(config, m, model, n_kept)
    with machine_lock(f"view cache {file}"):  # of several that want it, one computes it
        return CachedViews(loader, model, n_kept, m.device, m.autocast, file)


def views_to_keep(config: TrainConfig, m: Materials, model: DiscoveryModel) -> int:
    """Return how many views of an image are kept, 0 for none: what was asked for, or what `auto` comes to for this trunk."""
    if config.view_cache != "auto":
        return config.view_cache
    return auto_views(model, m.spec, len(m.data.train), config.n_views, m.device, m.autocast)


def _cache_file(config: TrainConfig, m: Materials, model: DiscoveryModel, n_kept: int) -> Path:
    """Return where the kept views lie: named by all that they depend on."""
    parts = {
        "trunk": model.trunk_digest,
        "data": m.data.digest,
        "views": dataclasses.asdict(m.spec),
        "seed": config.seed,
        "cached": n_kept,
        "environment": keys.environment(m.device, m.number_format),
        "kept": "in the number format of the forward pass",
    }
    return cache_home() / "views" / f"{digest.of_json(parts)[:32]}.safetensors"
