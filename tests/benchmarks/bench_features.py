"""Feature extraction against the bare model's forward pass, same batch size, both in one run.

    python -m tests.benchmarks.bench_features

Extraction includes reading, the evaluation transform, the copy to the host and writing the feature file. Goal: >= 90 % of bare forward.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from core.data.images import ArrayImages, ImageSet
from core.data.splits import make_split
from core.data.views import ViewSpec, resize_all
from core.evaluation.features import FeatureExtractor, normalise
from core.models import backbones
from core.models.discovery import DiscoveryModel
from core.models.fast_trunk import FastTrunk
from core.models.heads import ProjectionHead
from core.stages.discovery import feature_files
from core.training import precision

BATCH = 256


def model(name: str, size: int, block: int) -> DiscoveryModel:
    """Return an untrained model: its speed does not depend on its weights."""
    backbone = backbones.build(name, size, block, pretrained=False)
    backbone.trunk = FastTrunk(backbone.trunk, torch.rand(2, 3, size, size))
    return DiscoveryModel(backbone, ProjectionHead(backbone.feature_dim, 64, 64, 64)).eval()


def bare(net: DiscoveryModel, n: int, size: int, autocast) -> float:
    """Return the images a second of forward passes alone, on one batch that is ready in memory."""
    batch = torch.rand(BATCH, 3, size, size)
    began = time.perf_counter()
    with torch.no_grad(), autocast():
        for _ in range(n // BATCH):
            net.features(net.trunk(batch))
    return n // BATCH * BATCH / (time.perf_counter() - began)


def extraction(net: DiscoveryModel, images: ImageSet, spec: ViewSpec, device: torch.device, autocast, folder: Path) -> float:
    """Return the images a second of a whole extraction, from uint8 pixels to the file on disk."""
    began = time.perf_counter()
    resized = resize_all(images.source, spec)
    features = normalise(FeatureExtractor(resized, spec, device, autocast, BATCH, cache_bytes=0).extract(net))
    split = make_split(images.labels, {0, 1}, 0.8, 0.1, 1)
    data = SimpleNamespace(
        train=images, test=SimpleNamespace(labels=np.zeros(0, np.int64), ids=()), known_classes={0, 1}, name="x", digest="x"
    )
    holder = SimpleNamespace(data=data, split=split, spec=spec)
    facts = {"class_names": ["a", "b", "c"], "known_classes": [0, 1], "trunk_digest": "x"}
    feature_files.write(folder, holder, features, features[:0], facts, "x", True)
    return len(images) / (time.perf_counter() - began)


def main() -> None:
    """Alternate both sides and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobilenetv2_100")
    parser.add_argument("--image_size", type=int, default=96)
    parser.add_argument("--grad_from_block", type=int, default=5)
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = torch.device("cpu")
    number_format = precision.resolve_precision("auto", device)

    def autocast():
        return precision.autocast(device, number_format)

    rng = np.random.default_rng(0)
    n = options.images
    pixels = rng.integers(0, 255, (n, 32, 32, 3), dtype=np.uint8)
    images = ImageSet(tuple(f"train/{i:05d}" for i in range(n)), rng.integers(0, 3, n), ArrayImages(pixels))
    net, spec = model(options.model, options.image_size, options.grad_from_block), ViewSpec(options.image_size)
    bare(net, BATCH, options.image_size, autocast)
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            pairs.append((extraction(net, images, spec, device, autocast, Path(folder) / "f"), bare(net, n, options.image_size, autocast)))
    ratios = sorted(a / b for a, b in pairs)
    print(f"{options.model} {options.image_size} px, {number_format}, {torch.get_num_threads()} threads, {n} images, batch {BATCH}")
    print(f"extraction {np.median([a for a, _ in pairs]):.0f} images/s, bare forward {np.median([b for _, b in pairs]):.0f} images/s")
    print(f"ratio extraction / bare: median {np.median(ratios):.2f}, min {ratios[0]:.2f}, max {ratios[-1]:.2f} (goal >= 0.90)")


if __name__ == "__main__":
    main()
