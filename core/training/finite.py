"""Weights and outputs that are no numbers any more: found before anything of them is saved, scored or published."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError

REMEDY = "lower the learning rate, then run the command again"


@torch.no_grad()
def require_weights(named: Iterable[tuple[str, Tensor]], epoch: int) -> None:
    """Raise UserError naming the first of the weights, averages and buffers that diverged in the `epoch`-th epoch.

    The sum of squares has to be finite too: a step of 1e38 leaves numbers, of which no network can compute.
    """
    floating = [(name, value) for name, value in named if value.is_floating_point() and value.numel()]
    if not floating:
        return
    sums = torch.stack([value.float().square().sum().cpu() for _, value in floating])
    bad = [name for (name, _), fine in zip(floating, sums.isfinite().tolist(), strict=True) if not fine]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UserError(f"the training diverged in epoch {epoch}: {bad[0]}{more} is not finite; {REMEDY}")


def require_outputs(values: np.ndarray, what: str) -> np.ndarray:
    """Return features or logits (N, ...) as they are; raise UserError when the network gives what is no number for `what`."""
    if not np.isfinite(values).all():
        raise UserError(f"the network's outputs for {what} are not finite: the training diverged; {REMEDY}")
    return values
