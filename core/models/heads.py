"""Projection head: what the losses see; evaluation and clustering use the backbone's feature instead."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """DINO's head (Caron et al. 2021, arXiv:2104.14294, appendix C), as GCD uses it (Vaze et al. 2022, arXiv:2201.02609).

    An MLP with GELU to a bottleneck, L2-normalisation, and a linear layer without bias whose rows have unit length (DINO's
    weight normalisation with its gain fixed at 1), so that each output is a cosine in [-1, 1].

    Args:
        in_dim: width of the backbone's feature.
        hidden_dim: width of the MLP's hidden layers.
        bottleneck_dim: width of the normalised bottleneck.
        out_dim: number of outputs.
        layers: linear layers of the MLP, the bottleneck's included; 1 is a single linear layer.
        seed: seeds the truncated normal (std 0.02) initialisation; the global random state is not touched.

    Raises:
        ValueError: `layers` is below 1.

    Example:
        >>> head = ProjectionHead(768)
        >>> head(torch.randn(4, 768)).shape
        torch.Size([4, 65536])
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        out_dim: int = 65536,
        layers: int = 3,
        seed: int = 1,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"a projection head needs at least 1 layer, got {layers}")
        widths = [in_dim, *[hidden_dim] * (layers - 1), bottleneck_dim]
        modules: list[nn.Module] = []
        for index in range(layers):
            # Built without nn.Linear's own random initialisation, which would draw from the global generator.
            modules.append(nn.utils.skip_init(nn.Linear, widths[index], widths[index + 1]))
            if index < layers - 1:
                modules.append(nn.GELU())
        self.mlp = nn.Sequential(*modules)
        self.prototypes = nn.Parameter(torch.empty(out_dim, bottleneck_dim))
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.prototypes, std=0.02, generator=generator)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, in_dim) to projections (N, out_dim); the losses L2-normalise them."""
        return _Cosines.apply(F.normalize(self.mlp(features), dim=-1), self.prototypes)


class _Cosines(torch.autograd.Function):
    """z (N, d) and p (K, d) to z p^T / |p| (N, K): the lengths divide outputs, not rows, which are far more numbers when K is 65536.

    Left to autograd, half of a step with a cached trunk would go into arrays of the size of p; by hand the backward pass makes one.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, p: Tensor) -> Tensor:
        lengths = torch.linalg.vector_norm(p, dim=-1).clamp_min(1e-12)
        out = F.linear(z, p) / lengths
        ctx.save_for_backward(z, p, lengths, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        z, p, lengths, out = ctx.saved_tensors
        scaled = grads[0] / lengths
        along = (scaled * out).sum(0) / lengths
        return (scaled @ p).to(z.dtype), (scaled.T @ z.to(p.dtype)).addcmul_(p, along[:, None], value=-1)
