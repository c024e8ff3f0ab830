"""The one training loop, for every family, at world size 1 and N.

    for epoch: prepare, set the learning rates, seed, for batch: forward, check, backward, step; check; evaluate; hand over

A family supplies a `Task`; schedules are functions of the global epoch; who tracks and saves is told by `on_epoch`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.amp import GradScaler

from core.errors import UserError
from core.progress import bar
from core.training import distributed
from core.training.finite import REMEDY, require_weights
from core.training.precision import autocast


class Task(Protocol):
    """What a family trains. `losses` returns named scalars of which `L_total` is minimised."""

    @property
    def steps(self) -> int:
        """The number of batches of an epoch."""

    def prepare(self, epoch: int) -> torch.optim.Optimizer:
        """Switch to what a global epoch trains, and return its optimiser; a group's `lr_scale` multiplies its learning rate."""

    def batches(self, epoch: int) -> Iterator[Any]:
        """Yield this rank's batches of a global epoch: a pure function of (seed, epoch)."""

    def losses(self, batch: Any, epoch: int) -> dict[str, Tensor]:
        """Return the losses of one batch, equal on every rank."""

    def stepped(self) -> None:
        """Do what follows an optimiser step (a moving average of the weights)."""

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        """Yield whatever a step changes, by name: weights, averages, buffers. All of it has to stay finite."""

    def tally(self) -> dict[str, float]:
        """Return what was counted over the epoch's training batches, such as `train/accuracy`, and start anew."""

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
        seed: of whatever draws from torch's own generator (dropout, mixing).
        accumulate: batches whose gradients are averaged for one optimiser step.
        clip_norm: largest gradient norm, 0 = any.
        scaler: scales the loss where fp16 needs it; disabled elsewhere.
        on_steps, log_interval: called as `on_steps(values, global_step)` every so many batches on the main process; 0 = never.
        ended: asked after every epoch whether to end early (no further gain).
    """

    start: int
    stop: int
    lr: Callable[[int], float]
    device: torch.device
    precision: str = "fp32"
    seed: int = 1
    accumulate: int = 1
    clip_norm: float = 0.0
    scaler: GradScaler = field(default_factory=lambda: GradScaler("cpu", enabled=False))
    on_steps: Callable[[dict[str, float], int], None] = lambda values, step: None
    log_interval: int = 0
    ended: Callable[[], bool] = lambda: False


def fit(task: Task, plan: Plan, on_epoch: Callable[[int, dict[str, float]], None]) -> None:
    """Train from `plan.start` to `plan.stop`; `on_epoch(finished_epochs, metrics)` saves and tracks on the main process.

    Raises:
        UserError: a loss is not finite (raised before the optimiser step, so that the weights are still good), or the weights are not
            after the epoch's last step; nothing of that epoch is handed over.
    """
    for epoch in range(plan.start, plan.stop):
        if distributed.from_main(plan.ended()):
            return
        try:
            _run_epoch(task, plan, epoch, on_epoch)
        except KeyboardInterrupt:
            if distributed.is_main():
                print(interrupted(epoch), file=sys.stderr)
            raise


def interrupted(epoch: int) -> str:
    """Return what to tell whoever interrupts a (0-based) epoch: what remains, and why that epoch does not."""
    left = f"the checkpoint of epoch {epoch} remains and the same command continues from it" if epoch else "the same command starts anew"
    return f"taxon: interrupted in epoch {epoch + 1}: only whole epochs are kept, so that what continues is the same to the bit; {left}"


def _run_epoch(task: Task, plan: Plan, epoch: int, on_epoch: Callable[[int, dict[str, float]], None]) -> None:
    began = time.perf_counter()
    optimizer = task.prepare(epoch)
    for group in optimizer.param_groups:
        group["lr"] = plan.lr(epoch) * group.get("lr_scale", 1.0)
    torch.manual_seed(hash((plan.seed, epoch, distributed.rank())) & 0x7FFFFFFF)
    losses, waited = _train_epoch(task, optimizer, plan, epoch)
    require_weights(task.tensors(), epoch + 1)
    trained = time.perf_counter()
    metrics = losses | task.tally() | {"lr": plan.lr(epoch)}
    if distributed.is_main():
        metrics |= task.evaluate(epoch + 1)
        metrics |= {"time/train_seconds": trained - began, "time/evaluate_seconds": time.perf_counter() - trained}
        metrics["time/data_wait_seconds"] = waited
        on_epoch(epoch + 1, metrics)


def _train_epoch(task: Task, optimizer: torch.optim.Optimizer, plan: Plan, epoch: int) -> tuple[dict[str, float], float]:
    """Train one epoch; return the mean losses and the seconds spent waiting for data."""
    sums: dict[str, float] = {}
    batches = Timed(task.batches(epoch))
    optimizer.zero_grad(set_to_none=True)
    for step, batch in enumerate(bar(batches, f"epoch {epoch + 1}/{plan.stop}", total=task.steps)):
        with autocast(plan.device, plan.precision):
            losses = task.losses(batch, epoch)
        values = _finite(losses, epoch)
        # The last group of an epoch may be smaller; its gradients are a mean all the same.
        first = step - step % plan.accumulate
        plan.scaler.scale(losses["L_total"] / (min(first + plan.accumulate, task.steps) - first)).backward()
        if (step + 1) % plan.accumulate == 0 or step + 1 == task.steps:
            _step(task, optimizer, plan, epoch)
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
        if plan.log_interval and (step + 1) % plan.log_interval == 0 and distributed.is_main():
            plan.on_steps(values, epoch * task.steps + step + 1)
    return {name: value / task.steps for name, value in sums.items()}, batches.waited


def _step(task: Task, optimizer: torch.optim.Optimizer, plan: Plan, epoch: int) -> None:
    if plan.clip_norm:
        plan.scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], plan.clip_norm)
    try:
        plan.scaler.step(optimizer)
    except RuntimeError as error:
        if "without overflow" not in str(error):
            raise
        raise UserError(f"the training diverged in epoch {epoch + 1}: a step is larger than any number; {REMEDY}") from None
    plan.scaler.update()
    optimizer.zero_grad(set_to_none=True)
    task.stepped()


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
