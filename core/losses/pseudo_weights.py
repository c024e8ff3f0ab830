"""Weights of pseudo-labelled samples from how densely they lie."""

from __future__ import annotations

import torch
from torch import Tensor

MODES = ("none", "density", "inverse_density")


def density_weights(densities: Tensor, mode: str) -> Tensor:
    """Return weights (n,) for the pseudo-label loss sum(w*l)/sum(w).

    Ranks run from 1 (least dense) to n (densest); of equal densities the smaller index has the smaller rank.
    'density': sigmoid(12*(rank/n - 0.5)), about 0.0025 to 0.9975; 'inverse_density': 1 - that, clipped to 0.2..0.8;
    'none': all 1.

    Args:
        densities: (n,), larger is denser; only their order counts.
        mode: one of MODES.

    Returns:
        (n,) in float32 (float64 for float64 input), on the device of `densities`.

    Raises:
        ValueError: unknown `mode`, or `densities` is not one-dimensional.
    """
    if mode not in MODES:
        raise ValueError(f"pseudo_weight_mode={mode} is unknown; give one of {', '.join(MODES)}")
    if densities.ndim != 1:
        raise ValueError(f"densities must have shape (n,), got {tuple(densities.shape)}")
    dtype = torch.float64 if densities.dtype == torch.float64 else torch.float32
    n = densities.shape[0]
    if mode == "none":
        return torch.ones(n, dtype=dtype, device=densities.device)
    order = torch.argsort(densities, stable=True)
    rank = torch.empty(n, dtype=dtype, device=densities.device)
    rank[order] = torch.arange(1, n + 1, dtype=dtype, device=densities.device)
    weights = torch.sigmoid(12 * (rank / max(n, 1) - 0.5))
    return weights if mode == "density" else (1 - weights).clamp(0.2, 0.8)
