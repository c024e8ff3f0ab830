"""The one training loop, for every family, at world size 1 and N.

    for epoch: set the learning rate, seed, for batch: forward, check, backward, step; evaluate; hand over

A family supplies a `Task`; schedules are functions of the global epoch; who tracks and saves is told by `on_epoch`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from core.errors import UserError
from core.progress import bar
from core.training import distributed
from core.training.precision import autocast


class Task(Protocol):
    """What a family trains. `losses` returns named scalars of which `L_total` is minimised."""

    steps: int

    def batches(self, epoch: int) -> Iterator[Any]:
        """Yield this rank's batches of a global epoch: a pure function of (seed, epoch)."""

    def losses(self, batch: Any, epoch: int) -> dict[str, Tensor]:
        """Return the losses of one batch, equal on every rank."""

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Return the metrics after `epoch` finished epochs; called on the main process only."""


@dataclass(frozen=True)
class Plan:
    """Which epochs run, and how.

    Attributes:
        start: first global epoch (0-based), i.e. the number of finished ones.
        stop: number of finished epochs at which to end.
        lr: learning rate of a global epoch.
        device, precision: where and in which number format forward passes run.
        seed: of whatever draws from torch's own generator (dropout).
    """

    start: int
    stop: int
    lr: Callable[[int], float]
    device: torch.device
    precision: str = "fp32"
    seed: int = 1


def fit(task: Task, optimizer: torch.optim.Optimizer, plan: Plan, on_epoch: Callable[[int, dict[str, float]], None]) -> None:
    """Train from `plan.start` to `plan.stop`; `on_epoch(finished_epochs, metrics)` saves and tracks on the main process.

    Raises:
        UserError: a loss is not finite; raised before the optimiser step, so that the weights are still good.
    """
    for epoch in range(plan.start, plan.stop):
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = plan.lr(epoch)
        torch.manual_seed(hash((plan.seed, epoch, distributed.rank())) & 0x7FFFFFFF)
        sums: dict[str, float] = {}
        batches = Timed(task.batches(epoch))
        for batch in bar(batches, f"epoch {epoch + 1}/{plan.stop}", total=task.steps):
            with autocast(plan.device, plan.precision):
                losses = task.losses(batch, epoch)
            values = _finite(losses, epoch)
            optimizer.zero_grad(set_to_none=True)
            losses["L_total"].backward()
            optimizer.step()
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
        trained = time.perf_counter()
        metrics = {name: value / task.steps for name, value in sums.items()} | {"lr": plan.lr(epoch)}
        if distributed.is_main():
            metrics |= task.evaluate(epoch + 1)
            metrics |= {"time/train_seconds": trained - began, "time/evaluate_seconds": time.perf_counter() - trained}
            metrics["time/data_wait_seconds"] = batches.waited
            on_epoch(epoch + 1, metrics)


class Timed:
    """Iterates over `items` and adds up, in `waited`, the seconds spent waiting for them."""

    def __init__(self, items: Iterator[Any]):
        self.items, self.waited = items, 0.0

    def __iter__(self) -> Iterator[Any]:
        while True:
            began = time.perf_counter()
            item = next(self.items, None)
            self.waited += time.perf_counter() - began
            if item is None:
                return
            yield item


def _finite(losses: dict[str, Tensor], epoch: int) -> dict[str, float]:
    """Return the losses as numbers, read in one transfer; refuse to continue with one that is not finite."""
    values = dict(zip(losses, torch.stack([loss.detach().float() for loss in losses.values()]).tolist(), strict=True))
    bad = [name for name, value in values.items() if not -float("inf") < value < float("inf")]
    if bad:
        raise UserError(
            f"loss {', '.join(bad)} is not finite in epoch {epoch + 1}; lower lr or raise temperature, then run the command again"
        )
    return values
