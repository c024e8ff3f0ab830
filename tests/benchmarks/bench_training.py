"""What a training epoch spends besides computing: waiting for data, tracking, and the size of its checkpoint.

    python -m tests.benchmarks.bench_training

Goals: data loading and tracking together <= 5 % of epoch time, tracking alone <= 1 %, checkpoint <= 1.05 x (trainable + optimiser).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from core.data.images import ArrayImages
from core.data.loader import ViewLoader
from core.data.views import ViewSpec, resize_all
from core.training import optimizers, precision
from core.training import state as states
from core.training.discovery import DiscoveryTask, Targets
from core.training.loop import Plan, fit
from tests.benchmarks.bench_features import model


class Config:
    """The options of the losses that the task reads."""

    objective, n_views, temperature, sup_con_temperature, sup_con_weight = "contrast", 2, 0.3, 0.07, 0.5
    contrast_unlabel_only, gamma_ramp, update_interval, epochs = False, "intervals", 5, 100


def task(images: int, size: int, batch: int) -> DiscoveryTask:
    """Return a discovery task on random images with MobileNetV2's last two stages trained."""
    rng = np.random.default_rng(0)
    net = model("mobilenetv2_100", size, 5)
    spec = ViewSpec(size)
    resized = resize_all(ArrayImages(rng.integers(0, 255, (images, 32, 32, 3), dtype=np.uint8)), spec)
    labels = torch.from_numpy(np.where(rng.random(images) < 0.6, rng.integers(0, 4, images), -1))
    nothing = torch.full((images,), -1)
    loader = ViewLoader(resized, spec, batch, 2, None, 1, num_workers=2)
    optimizer = optimizers.build("adamw", net.parameters(), 5e-4, 0.9, 1e-4)
    targets = Targets(labels, labels, nothing, torch.zeros(images))
    return DiscoveryTask(net, loader, targets, Config, lambda epoch: {}, torch.device("cpu"), optimizer)


def main() -> None:
    """Train a few epochs with tracking, time its parts, print shares of the epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--image_size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "TAXON_CACHE": f"{folder}/cache"}
        os.environ["MLFLOW_ARTIFACT_ROOT"] = folder
        os.chdir(folder)
        shares, size_ratio = measure(options, Path(folder))
    print(
        f"mobilenetv2_100 {options.image_size} px, {torch.get_num_threads()} threads, {options.images} images an epoch, batch 128 x 2 views"
    )
    for name, (share, goal) in shares.items():
        print(f"{name:32s} {100 * share:6.2f} % of epoch time (goal <= {goal} %)")
    print(f"checkpoint / (trainable + optimiser state) = {size_ratio:.3f} (goal <= 1.05)")


def measure(options: argparse.Namespace, folder: Path) -> tuple[dict[str, tuple[float, int]], float]:
    """Return the shares of epoch time with their goals, and the checkpoint's relative size."""
    from core.tracking import run as tracking
    from core.tracking import store

    store.prepare()
    run = tracking.open_run("benchmark", "benchmark")
    work = task(options.images, options.image_size, 128)
    optimizer = work.optimizer
    spent = {"tracking": 0.0, "wait": 0.0, "train": 0.0}

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        spent["train"] += metrics["time/train_seconds"]
        spent["wait"] += metrics["time/data_wait_seconds"]
        began = time.perf_counter()
        run.metrics(metrics, epoch)
        spent["tracking"] += time.perf_counter() - began

    device = torch.device("cpu")
    fit(work, Plan(0, options.epochs, lambda epoch: 5e-4, device, precision.resolve_precision("auto", device)), on_epoch)
    path = states.save_checkpoint(folder / "c", states.TrainState(1, work.model.trainable_state(), optimizer.state_dict()))
    run.finish()
    tensors = [value for slots in optimizer.state_dict()["state"].values() for value in slots.values() if isinstance(value, torch.Tensor)]
    state = sum(p.nbytes for p in work.model.state_dict().values()) + sum(value.nbytes for value in tensors)
    shares = {
        "data loading and tracking": ((spent["wait"] + spent["tracking"]) / spent["train"], 5),
        "tracking alone": (spent["tracking"] / spent["train"], 1),
    }
    return shares, path.stat().st_size / state


if __name__ == "__main__":
    main()
