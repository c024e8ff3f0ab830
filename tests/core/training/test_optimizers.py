"""Optimisers by name, over what trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.training import optimizers


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model[0].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_only_what_trains_is_optimised_with_the_settings_given(name, kind):
    model = network()
    made = optimizers.build(name, model.parameters(), lr=0.3, momentum=0.8, weight_decay=0.02)
    assert type(made) is kind
    (group,) = made.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters() if p.requires_grad]
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.02)
    assert name != "sgd" or group["momentum"] == 0.8


def test_an_unknown_name_is_no_adamw():
    with pytest.raises(ValueError, match="neither sgd, adam nor adamw"):
        optimizers.build("lion", network().parameters(), 0.1, 0.9, 0.0)
