"""Optimisers by name, over one list of parameters (weight decay on everything, as the discovery recipes were measured) or groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def build(name: str, parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return `sgd` (as GCD's reference), `adam` or `adamw` over those of `parameters` that train."""
    return over_groups(name, [{"params": [p for p in parameters if p.requires_grad]}], lr, momentum, weight_decay)


def over_groups(name: str, groups: list[dict[str, Any]], lr: float, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return the optimiser over parameter groups; a group's own `weight_decay` overrides the common one."""
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay)
    if name not in ("adam", "adamw"):
        raise ValueError(f"optimizer '{name}' is neither sgd, adam nor adamw")
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](groups, lr=lr, weight_decay=weight_decay)


def decayed(name: str, parameters: Iterable[nn.Parameter], weight_decay: float, lr_scale: float = 1.0) -> list[dict[str, Any]]:
    """Return two groups of those of `parameters` that train: matrices and kernels with weight decay, biases and norms without."""
    trained = [p for p in parameters if p.requires_grad]
    parts = (
        (name, [p for p in trained if p.ndim > 1], weight_decay),
        (f"{name} without decay", [p for p in trained if p.ndim <= 1], 0.0),
    )
    return [{"name": title, "params": part, "weight_decay": decay, "lr_scale": lr_scale} for title, part, decay in parts if part]


def load_without_last(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what a `state_dict` of one group knows of all but the last parameter, which one of the two lacks or has in another shape."""
    (own,), (group,) = optimizer.state_dict()["param_groups"], state["param_groups"]
    common = min(len(own["params"]), len(group["params"])) - (len(own["params"]) == len(group["params"]))
    known = {index: slots for index, slots in state["state"].items() if index < common}
    optimizer.load_state_dict({"state": known, "param_groups": [{**group, "params": own["params"]}]})


def carry_over(old: torch.optim.Optimizer, new: torch.optim.Optimizer) -> None:
    """Give `new` what `old` knows (moments, steps) of the parameters that are in both."""
    for group in new.param_groups:
        for parameter in group["params"]:
            if parameter in old.state:
                new.state[parameter] = old.state[parameter]
