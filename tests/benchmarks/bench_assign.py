"""Images a second of `assign` against the model's bare forward pass, and its memory over the number of images.

    python -m tests.benchmarks.bench_assign [--model_name=mobilenetv3_large_100] [--image_size=224] [--images=600]

The weights are random: neither speed nor memory depends on them. Memory is the process's peak after n and after 4 n images.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from core.data import image_stream
from core.data.views import ViewSpec
from core.models import backbones
from core.models.discovery import DiscoveryModel
from core.models.heads import ProjectionHead
from core.serving import discovery as serving
from core.stages.discovery.assign import Assignment
from core.stages.discovery.assign_config import AssignConfig

KINDS, DISTINCT, SIDE = 10, 50, 500
SHOWN = 200  # the sample for the page grows up to its limit, and no further


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_name", default="mobilenetv3_large_100")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--num_workers", type=int, default=2)
    said = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        predictor = predictor_of(said.model_name, said.image_size, folder / "model")
        print(f"{said.model_name} at {said.image_size} px, JPEG files of {SIDE} px, one thread, {said.num_workers} reading")
        before = forward_rate(predictor)
        for n in (said.images, 4 * said.images):
            rate = assigned_rate(predictor, heap_of(folder / str(n), n), folder / f"answer{n}", said.num_workers)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{n:6} images: {rate:8.1f} images a second, peak memory {peak:7.1f} MB")
        print(f"bare forward: {before:8.1f} images a second before, {forward_rate(predictor):8.1f} after")


def predictor_of(name: str, size: int, folder: Path) -> serving.DiscoveryPredictor:
    """Return a predictor with random weights and centres."""
    backbone = backbones.build(name, size, 0, pretrained=False, seed=1)
    model = DiscoveryModel(backbone, ProjectionHead(backbone.feature_dim, 8, 4, 4, seed=1)).eval()
    centres = np.random.default_rng(0).normal(size=(KINDS, backbone.feature_dim))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    clusters = [{"name": f"kind {i}", "known": i < KINDS // 2, "radius": 1.0} for i in range(KINDS)]
    serving.write(folder, model, ViewSpec(image_size=size), centres, {"model_name": name, "grad_from_block": 0, "clusters": clusters})
    return serving.DiscoveryPredictor(folder)


def heap_of(folder: Path, n: int) -> Path:
    """Return a folder of `n` JPEG files, links to a few that differ."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n):
        if i < DISTINCT:
            coarse = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{i:06d}.jpg", quality=90)
        else:
            os.link(folder / f"{i % DISTINCT:06d}.jpg", folder / f"{i:06d}.jpg")
    return folder


def forward_rate(predictor: serving.DiscoveryPredictor, seconds: float = 8.0) -> float:
    """Return images a second of the forward pass alone, on views that are ready."""
    views = torch.rand(32, 3, predictor.spec.image_size, predictor.spec.image_size)
    predictor.features(views)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        predictor.features(views)
        done += len(views)
    return done / (time.perf_counter() - start)


def assigned_rate(predictor: serving.DiscoveryPredictor, heap: Path, answer: Path, num_workers: int) -> float:
    """Return images a second of a whole pass: listing, reading, forward pass, rows."""
    answer.mkdir()
    config = AssignConfig(data_root=str(heap), num_workers=num_workers, threads=1, shown=SHOWN)
    start = time.perf_counter()
    work = Assignment(config, predictor, image_stream.of_folder(str(heap)), answer)
    work.stream()
    return float(work.sizes.sum()) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
