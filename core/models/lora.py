"""LoRA: train a low-rank change of a tower's linear weights and nothing else of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from core.errors import UserError

_WEIGHTS = ("weight", "in_proj_weight")


class LowRank(nn.Module):
    """W -> W + (alpha / rank) * B A (Hu et al. 2021, arXiv:2106.09685, equation 3), with B = 0 at the start.

    A parametrisation of the weight instead of a layer around it: `nn.MultiheadAttention` never calls its projections as
    layers, it takes their weights.

    Args:
        weight: (out, in), frozen.
        rank: r, the inner width.
        alpha: divided by the rank it scales the change.
        generator: draws A.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = alpha / rank
        down = torch.randn(rank, weight.shape[1], generator=generator) * weight.shape[1] ** -0.5
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed weight (out, in)."""
        return weight + self.scale * (self.up @ self.down)


def add(module: nn.Module, rank: int, alpha: float, name: str, seed: int = 1) -> int:
    """Freeze `module` and give the attention and MLP weights in it a trainable low-rank change; return how many there are.

    Every `nn.Linear` and the joint input projection of every `nn.MultiheadAttention` count; the outputs stay what they were.

    Args:
        module: a tower's body.
        rank: at least 1. alpha: see LowRank.
        name: what to call the tower in errors.
        seed: draws the inner projections; the global random state is not touched.

    Raises:
        UserError: the rank is below 1, or the tower (a CNN) has no such weights.
    """
    if rank < 1:
        raise UserError(f"lora_rank={rank} must be 1 or more; 0 leaves LoRA off")
    targets = [(part, weight) for part in module.modules() for weight in _WEIGHTS if _takes(part, weight)]
    if not targets:
        raise UserError(f"lora_rank={rank}: {name} has no attention or MLP weights to change; leave it out or choose a transformer")
    module.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for part, weight in targets:
        parametrize.register_parametrization(part, weight, LowRank(getattr(part, weight), rank, alpha, generator))
    return len(targets)


def merge(module: nn.Module) -> None:
    """Write every low-rank change into its weight and drop it; outputs stay, and the names are those of the plain tower again."""
    for part in list(module.modules()):
        for weight in _WEIGHTS:
            if parametrize.is_parametrized(part, weight):
                parametrize.remove_parametrizations(part, weight, leave_parametrized=True)
                getattr(part, weight).requires_grad_(False)


def _takes(part: nn.Module, weight: str) -> bool:
    return isinstance(part, nn.Linear if weight == "weight" else nn.MultiheadAttention) and getattr(part, weight) is not None
