"""A training step with and without cached views against a plain loop, and what the launcher's allocator settings bring.

    python -m tests.benchmarks.bench_view_cache

The recipe of GCD: ViT-B/16 at 224 px with the last block trained, a DINO head of 65,536 outputs, InfoNCE and SupCon over two views, SGD.
The plain loop is what the published code does: the whole network forward in float32, then backward through what trains. It and the step
with fresh views get their batches ready-made, so that no side waits for data; the step with cached views picks them from the file. All
sides take turns in one process. Weights are random: speed does not depend on them. A second process measures the same without the
allocator settings. Goals: plain / fresh >= 2.5, plain / cached >= 10.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data.images import ArrayImages
from core.data.loader import Batch, ViewLoader
from core.data.views import ViewSpec, resize_all
from core.models import backbones
from core.models.discovery import DiscoveryModel
from core.models.heads import ProjectionHead
from core.stages.launch import MALLOC
from core.training import optimizers, precision
from core.training.discovery import DiscoveryTask, Targets
from core.training.loop import Plan, fit
from core.training.view_cache import CachedViews
from tests.benchmarks.bench_training import Config

NAME, SIZE, BLOCK, HEAD_OUT = "vit_base_patch16_224", 224, 11, 65536
SIDES = ("plain", "fresh", "cached")
CPU = torch.device("cpu")


class Recipe(Config):
    """GCD's options of the losses."""

    temperature = 1.0


class Plain(nn.Module):
    """The network and the head of the published code: DINO's, with torch's weight normalisation and its gain frozen at 1."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.net = timm.create_model(NAME, pretrained=False, num_classes=0)
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name.startswith(f"blocks.{BLOCK}."))
        self.mlp = nn.Sequential(nn.Linear(768, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256))
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(256, HEAD_OUT, bias=False))
        self.last.parametrizations.weight.original0.requires_grad_(False).fill_(1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, 224, 224) to projections (N, 65536) of unit length."""
        return F.normalize(self.last(F.normalize(self.mlp(self.net(images)), dim=-1)), dim=-1)


def contrast(projections: Tensor, same: Tensor, temperature: float) -> Tensor:
    """Return the mean over rows (N, d) of -log p of those that are the `same` (N, N), as InfoNCE and SupCon have it."""
    itself = torch.eye(len(projections), dtype=torch.bool)
    logits = (projections @ projections.T / temperature).masked_fill(itself, -torch.inf)
    positive = same & ~itself
    log_prob = (logits - logits.logsumexp(1, keepdim=True)).masked_fill(itself, 0)
    return -((log_prob * positive).sum(1) / positive.sum(1)).mean()


def plain_step(net: Plain, optimizer: torch.optim.Optimizer, batch: Batch, labels: Tensor) -> None:
    """Do one step of the published loop, in float32."""
    projections = net(batch.views)
    rows, classes = batch.indices.repeat(2), labels[batch.indices].repeat(2)
    told = classes >= 0
    loss = 0.5 * contrast(projections, rows[:, None] == rows, Recipe.temperature)
    loss = loss + 0.5 * contrast(projections[told], classes[told][:, None] == classes[told], Recipe.sup_con_temperature)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class Ready:
    """Stands in for a ViewLoader: the batches of an epoch are made before anything is timed."""

    def __init__(self, loader: ViewLoader, steps: int):
        self.steps = steps
        self.made = [batch for batch, _ in zip(loader.epoch(0), range(steps), strict=False)]

    def epoch(self, _epoch: int) -> Iterator[Batch]:
        """Yield them."""
        yield from self.made


def sides(batch_size: int, steps: int, folder: Path) -> dict[str, Callable[[], float]]:
    """Return, by name, what does a few steps of a side and returns the seconds of one."""
    rng, n = np.random.default_rng(0), batch_size * steps
    spec = ViewSpec(SIZE)
    images = resize_all(ArrayImages(rng.integers(0, 255, (n, 64, 64, 3), dtype=np.uint8)), spec)
    labels = torch.from_numpy(np.where(np.arange(n) % 2, rng.integers(0, 8, n), -1))
    loader = ViewLoader(images, spec, batch_size, 2, None, 1, num_workers=2)
    number_format = precision.resolve_precision("auto", CPU)
    ready = Ready(loader, steps)

    def task(kept: bool) -> Callable[[], float]:
        backbone = backbones.build(NAME, SIZE, BLOCK, pretrained=False)
        model = DiscoveryModel(backbone, ProjectionHead(backbone.feature_dim, out_dim=HEAD_OUT))
        autocast = partial(precision.autocast, CPU, number_format)
        views: Any = CachedViews(loader, model, 2, CPU, autocast, folder / "views.safetensors") if kept else ready
        optimizer = optimizers.build("sgd", model.parameters(), 0.1, 0.9, 1e-4)
        nothing = torch.full((n,), -1)
        targets = Targets(labels, labels, nothing, torch.zeros(n))
        made = DiscoveryTask(model, views, targets, Recipe, lambda epoch: {}, CPU, optimizer)
        return partial(_epoch, made, Plan(0, 1, lambda epoch: 0.1, CPU, number_format))

    net = Plain()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1, 0.9, weight_decay=1e-4)

    def plain() -> float:
        began = time.perf_counter()
        plain_step(net, optimizer, ready.made[0], labels)
        return time.perf_counter() - began

    return {"plain": plain, "fresh": task(False), "cached": task(True)}


def _epoch(task: DiscoveryTask, plan: Plan) -> float:
    """Return the seconds of a step of an epoch of the real loop."""
    seconds: list[float] = []
    fit(task, plan, lambda _epoch, metrics: seconds.append(metrics["time/train_seconds"] / task.steps))
    return seconds[0]


def measure(batch_size: int, steps: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of a step of each side, round by round; the sides take turns after one round to warm up."""
    with tempfile.TemporaryDirectory() as folder:
        made = sides(batch_size, steps, Path(folder))
        found: dict[str, list[float]] = {name: [] for name in SIDES}
        for _ in range(1 + rounds):
            for name in SIDES:
                found[name].append(made[name]())
    return {name: seconds[1:] for name, seconds in found.items()}


def in_a_process(words: list[str], settings: dict[str, str]) -> dict[str, list[float]]:
    """Return what a process of its own measures with these allocator settings."""
    env = {name: value for name, value in os.environ.items() if name not in MALLOC} | settings
    command = [sys.executable, "-m", "tests.benchmarks.bench_view_cache", "--only", *words]
    return json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    """Measure with and without the allocator settings; print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn of the sides that are this project's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="store_true", help="measure in this process as it is, and print JSON")
    asked = parser.parse_args()
    if asked.only:
        print(json.dumps(measure(asked.batch, asked.steps, asked.rounds)))
        return
    words = [f"--batch={asked.batch}", f"--steps={asked.steps}", f"--rounds={asked.rounds}"]
    found, bare = in_a_process(words, MALLOC), in_a_process(words, {})
    number_format = precision.resolve_precision("auto", CPU)
    print(f"{NAME} {SIZE} px, batch {asked.batch} x 2 views, {number_format} against fp32, {torch.get_num_threads()} threads")
    for name in SIDES:
        gain = np.median(bare[name]) / np.median(found[name])
        print(f"{name:6s} {np.median(found[name]):7.3f} s a step; without the allocator settings {gain:.2f} times that")
    for name, goal in (("fresh", 2.5), ("cached", 10)):
        ratios = sorted(one / other for one, other in zip(found["plain"], found[name], strict=True))
        print(f"ratio plain / {name}: median {np.median(ratios):.2f}, min {ratios[0]:.2f}, max {ratios[-1]:.2f} (goal >= {goal})")


if __name__ == "__main__":
    main()
