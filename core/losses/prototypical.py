"""Cross-entropy against class prototypes, and the prototypes themselves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.losses._similarity import check, cosine, full_precision, weighted_mean, zero_with_graph


def prototypical(
    features: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    temperature: float = 0.1,
    keep: Tensor | None = None,
    weights: Tensor | None = None,
    n_views: int = 2,
) -> Tensor:
    """Prototypical cross-entropy (after Snell et al. 2017, arXiv:1703.05175, equation 2, with cosines for distances).

    l_i = -log softmax_k( cos(z_i, c_k) / t )[y_i],   L = sum_i w_i l_i / sum_i w_i over samples and views.

    Args:
        features: features or projections (V*B, d), view-major; L2-normalised here.
        labels: (B,) indices of prototypes; a negative label means 'none' and leaves the sample out.
        prototypes: (K, d); an all-zero row is an empty class: nothing is compared with it, and samples of it are left out.
        temperature: t.
        keep: (B,) bool; other samples do not count.
        weights: (B,) not negative; each sample's weight holds for all its views.
        n_views: V.

    Returns:
        A scalar in float32 (float64 for float64 input); 0 with a graph when no row counts.

    Raises:
        ValueError: shapes do not agree, a label is not below K, or `temperature` is not above 0.

    Example:
        >>> prototypes = class_prototypes(train_features, train_labels, n_classes=6)
        >>> loss = prototypical(torch.cat([view_0, view_1]), labels, prototypes)
    """
    check(features, n_views, temperature, labels.shape[0])
    filled = prototypes.detach().abs().sum(dim=1) > 0
    kept = labels >= 0 if keep is None else keep.bool() & (labels >= 0)
    if bool(kept.any()) and int(labels[kept].max()) >= prototypes.shape[0]:
        raise ValueError(f"label {int(labels[kept].max())} has no prototype; there are {prototypes.shape[0]}")
    if prototypes.shape[0]:
        kept = kept & filled[labels.clamp(0, prototypes.shape[0] - 1)]
    rows = kept.repeat(n_views)
    z, y = features[rows], labels.repeat(n_views)[rows]
    if z.shape[0] == 0:
        return zero_with_graph(features)
    logits = (cosine(z, prototypes) / temperature).masked_fill(~filled[None, :], -torch.inf)
    losses = -logits.log_softmax(dim=1).gather(1, y.long()[:, None]).squeeze(1)
    w = torch.ones_like(losses) if weights is None else full_precision(weights.repeat(n_views)[rows])
    return weighted_mean(losses, w)


def class_prototypes(features: Tensor, labels: Tensor, n_classes: int, weights: Tensor | None = None) -> Tensor:
    """Return the prototypes (n_classes, d): L2-normalised (weighted) means of the L2-normalised features of each class.

    Args:
        features: (N, d).
        labels: (N,) below `n_classes`; negative labels are left out.
        n_classes: K.
        weights: (N,) not negative.

    Returns:
        (K, d) in float32 (float64 for float64 input); an all-zero row for a class without features.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(full_precision(features), dim=1)
        if weights is not None:
            unit = unit * weights.to(unit.dtype)[:, None]
        known = labels >= 0
        sums = unit.new_zeros(n_classes, unit.shape[1]).index_add(0, labels[known].long(), unit[known])
        return F.normalize(sums, dim=1)
