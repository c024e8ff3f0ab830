"""Optimisers by name: one group each, weight decay on everything, as the recipes were measured."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def build(name: str, parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return `sgd` (as GCD's reference) or `adamw` over those of `parameters` that train."""
    trained = [p for p in parameters if p.requires_grad]
    if name == "sgd":
        return torch.optim.SGD(trained, lr=lr, momentum=momentum, weight_decay=weight_decay)
    if name != "adamw":
        raise ValueError(f"optimizer '{name}' is neither sgd nor adamw")
    return torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
