"""A classifier whose classes, known and novel, are directions in feature space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosineClassifier(nn.Module):
    """SimGCD's prototypical classifier (Wen et al. 2023, arXiv:2211.11727, section 3.2).

    Its answer for a feature is the prototype of the largest cosine: the nearest centre among unit vectors.

    Args:
        in_dim: d, width of the feature.
        n_classes: K, known and novel classes together.
        seed: seeds the truncated normal (std 0.02) initialisation; the global random state is not touched.
    """

    def __init__(self, in_dim: int, n_classes: int, seed: int = 1) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.empty(n_classes, in_dim))
        nn.init.trunc_normal_(self.prototypes, std=0.02, generator=torch.Generator().manual_seed(seed))

    def forward(self, features: Tensor) -> Tensor:
        """Return the cosines (N, K), in full precision, of features (N, d) and prototypes."""
        with torch.autocast(features.device.type, enabled=False):
            return F.normalize(features.float(), dim=1) @ F.normalize(self.prototypes.float(), dim=1).T
