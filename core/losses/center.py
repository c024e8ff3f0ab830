"""Center loss: features are drawn to a learnt centre of their class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.losses._similarity import full_precision


class CenterLoss(nn.Module):
    """Center loss (Wen et al. 2016, "A Discriminative Feature Learning Approach for Deep Face Recognition", equation 2).

    L = 1/B * sum_i sum_c t_ic * ||f_i/|f_i| - c_c||^2, without the paper's factor 1/2, with a mean for its sum, and of features of
    length 1: the paper's loss grows with the square of the features' scale and with their width, so that a weight which suits one
    backbone lets the loss rule the training of another. Here it is below 4 for centres within the sphere, whatever the backbone. The
    centres are parameters and learn by the same gradient, so that they must join the optimiser.

    Args:
        n_classes: C.
        dim: width d of the features.
        seed: seeds the centres' directions; the global random state is not touched.

    Example:
        >>> center = CenterLoss(61, 2048).from_features(train_features, train_labels)
        >>> loss = soft_cross_entropy(logits, targets) + 0.01 * center(features, targets)
    """

    def __init__(self, n_classes: int, dim: int, seed: int = 1) -> None:
        super().__init__()
        self.centres = nn.Parameter(F.normalize(torch.randn(n_classes, dim, generator=torch.Generator().manual_seed(seed)), dim=1))

    def forward(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of features (B, d), which are L2-normalised here, with soft targets (B, C).

        Returns:
            A scalar in float32 (float64 for float64 features and centres); 0 with a graph for an empty batch.

        Raises:
            ValueError: shapes do not agree.
        """
        n_classes, dim = self.centres.shape
        batch = features.shape[0]
        if features.shape != (batch, dim) or targets.shape != (batch, n_classes):
            raise ValueError(
                f"features {tuple(features.shape)} and targets {tuple(targets.shape)} do not fit {n_classes} centres of width {dim}"
            )
        # Only the pairs that count: a mixed target names two classes, and all differences (B, C, d) would be large. Differences,
        # because the expanded square ||f||^2 - 2fc + ||c||^2 cancels where features lie close to their centre.
        sample, label = targets.nonzero(as_tuple=True)
        distances = (F.normalize(full_precision(features), dim=1)[sample] - self.centres[label]).square().sum(dim=1)
        return (targets[sample, label].to(distances) * distances).sum() / max(batch, 1)

    @torch.no_grad()
    def from_features(self, features: Tensor, labels: Tensor) -> CenterLoss:
        """Set each class's centre to the mean of its L2-normalised features (N, d) with labels (N,), and return this module.

        A class without features keeps its centre.

        Raises:
            ValueError: shapes do not agree, or a label is outside 0..C-1.
        """
        n_classes, dim = self.centres.shape
        if features.ndim != 2 or features.shape[1] != dim or labels.shape != features.shape[:1]:
            raise ValueError(f"features {tuple(features.shape)} and labels {tuple(labels.shape)} do not fit centres of width {dim}")
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
            raise ValueError(f"labels {int(labels.min())}..{int(labels.max())} are outside 0..{n_classes - 1}")
        labels = labels.long().to(self.centres.device)
        sums = torch.zeros_like(self.centres).index_add(0, labels, F.normalize(features.to(self.centres), dim=1))
        counts = torch.bincount(labels, minlength=n_classes)[:, None]
        self.centres.copy_(torch.where(counts > 0, sums / counts.clamp_min(1), self.centres))
        return self
