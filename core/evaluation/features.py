"""Features of a model under the evaluation transform, at the speed of its forward pass.

The frozen trunk's outputs are kept between calls when they fit, so that evaluating every epoch costs the tail only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.data.loader import evaluation_batches
from core.data.views import ViewSpec
from core.finite import require_finite
from core.models.discovery import DiscoveryModel
from core.models.split import compact
from core.progress import bar

CACHE_BYTES = 2 << 30  # trunk outputs kept per image set


class FeatureExtractor:
    """Extracts the features of one image set again and again.

    Args:
        images: the resized images (core.data.views).
        spec: the view specification; only its evaluation view is used, never a random one.
        device: where the model lives.
        autocast: makes the context of the forward passes.
        batch_size: images a forward pass.
        cache_bytes: how much of the frozen trunk's output is kept; 0 = none.
        num_workers: threads that decode images ahead.
    """

    def __init__(
        self,
        images: Any,
        spec: ViewSpec,
        device: torch.device,
        autocast: Any,
        batch_size: int = 256,
        cache_bytes: int = CACHE_BYTES,
        num_workers: int = 2,
    ):
        self.images, self.spec, self.device, self.autocast, self.batch_size = images, spec, device, autocast, batch_size
        self.cache_bytes, self.num_workers = cache_bytes, num_workers
        self.cached: list[Tensor] | None = None
        self.computed = torch.float32

    @torch.no_grad()
    def extract(self, model: DiscoveryModel) -> np.ndarray:
        """Return the pooled features (N, d) float32, not normalised; the model is left in the mode it was in.

        Raises UserError where a feature is NaN or infinite, so that nothing is computed from it.
        """
        was_training = model.training
        model.eval()
        with self.autocast():
            parts = [model.features(output).float().cpu() for output in self._trunk_outputs(model)]
        model.train(was_training)
        features = torch.cat(parts).numpy() if parts else np.zeros((0, model.feature_dim), np.float32)
        require_finite(features, "the features that the model gives", "training has diverged (lower lr) or its weights are damaged")
        return features

    def _trunk_outputs(self, model: DiscoveryModel) -> Iterator[Tensor]:
        if self.cached is not None:
            yield from (part.to(self.device, non_blocking=True).to(self.computed) for part in self.cached)
            return
        kept: list[Tensor] | None = []
        room = self.cache_bytes
        total = -(-len(self.images) // self.batch_size)
        batches = evaluation_batches(self.images, self.spec, self.batch_size, num_workers=self.num_workers)
        for _indices, views in bar(batches, "features", total=total):
            output = model.trunk(views.to(self.device, non_blocking=True))
            part = compact(output)
            self.computed = output.dtype
            room -= part.nbytes
            if kept is not None:
                kept = [*kept, part.cpu()] if room >= 0 else None
            yield part.to(self.computed)  # as from the cache: the first time gives what the others do
        self.cached = kept


def normalise(features: np.ndarray) -> np.ndarray:
    """Return rows of unit Euclidean length (N, d); a zero row stays zero."""
    scaled: np.ndarray = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return scaled
