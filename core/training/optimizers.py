"""Optimisers by name; weight decay spares biases, norms and other vectors only where the recipe's optimiser is AdamW."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def build(name: str, parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return `sgd` (as GCD's reference: one group, decay on everything) or `adamw` over `parameters`."""
    trained = [p for p in parameters if p.requires_grad]
    if name == "sgd":
        return torch.optim.SGD(trained, lr=lr, momentum=momentum, weight_decay=weight_decay)
    return torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
