"""Self-distillation towards prototypes that stay as they are."""

from __future__ import annotations

from torch import Tensor

from core.losses._similarity import check, cosine
from core.losses.self_distillation import self_distillation


def soft_prototypical(
    features: Tensor, prototypes: Tensor, n_views: int = 2, temperature: float = 0.1, teacher_temperature: float = 0.05
) -> Tensor:
    """Return `self_distillation` of the cosines of features and prototypes, with an entropy of weight 1.

    Args:
        features: (V*B, d) view-major; L2-normalised here.
        prototypes: (K, d); an all-zero row is an empty class and is never assigned.
        n_views: V, at least 2.
        temperature: t. teacher_temperature: t'.

    Returns:
        A scalar in float32 (float64 for float64 input); 0 with a graph where no prototype is filled or there are no features.

    Raises:
        ValueError: shapes do not agree or a temperature is not above 0.
    """
    check(features, n_views, temperature)
    filled = prototypes.detach().abs().sum(dim=1) > 0
    return self_distillation(cosine(features, prototypes[filled]), n_views, temperature, teacher_temperature)
