"""How far the estimated number of classes is off, on superclasses of CIFAR-100 and several draws of who is labelled.

    python -m tests.benchmarks.bench_n_classes --features head
    python -m tests.benchmarks.bench_n_classes --features trained --cache <folder>

`frozen`: MobileNetV2 features at 96 pixels as they are. `head`: a small network trained on them for a minute, by supervised contrast of
the labelled images and contrast of all, as a stand-in for a training. `trained`: `train_superclass` itself, MobileNetV2 at 96 pixels. All
is the v2 accuracy on unlabelled images of semi-supervised k-means at the true number and at the estimated one. `--cache` keeps the frozen
features, and those of trainings, between calls.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from core.clustering.kmeans import semi_supervised_kmeans
from core.clustering.n_classes import Count, estimate
from core.data import cifar100
from core.data.superclasses import find
from core.evaluation.gcd import accuracy
from core.stages.discovery import feature_files
from tests.benchmarks.bench_loop import Place
from tests.benchmarks.features import DATA_ROOT, superclass_features

NAMES = "trees,flowers,fruits_vegetables,reptiles,humans,furniture"
STEPS, BATCH = 160, 256
TRAINING = ("--model_name=mobilenetv2_100", f"--weights={DATA_ROOT}/weights/mobilenetv2_100.safetensors", "--image_size=96")
TRAINING += ("--view_cache=6", "--threads=1", "--save_features_and_exit=true")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    seed: int
    truth: int
    count: Count
    at_truth: float
    at_estimate: float
    seconds: float

    @property
    def right(self) -> bool:
        """Whether the number is within a tenth of the truth."""
        return abs(self.count.n - self.truth) <= 0.1 * self.truth

    @property
    def as_good(self) -> bool:
        """Whether the accuracy is within .02 of that at the true number, or above it."""
        return self.at_estimate >= self.at_truth - 0.02


def frozen(name: str, cache: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, d) of a superclass's training images, centred and of unit length, and their fine ids."""
    kept = cache / f"{name}.npz" if cache else None
    if kept and kept.exists():
        stored = np.load(kept)
        return stored["features"], stored["truth"]
    row = find(name)
    found = superclass_features(None, row.known, row.novel)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, features=found.features, truth=found.truth)
    return found.features, found.truth


def labels_of(truth: np.ndarray, known: tuple[int, ...], share: float, seed: int) -> np.ndarray:
    """Return (N,) the fine ids of a random `share` of the known classes' images, -1 elsewhere."""
    pool = np.flatnonzero(np.isin(truth, known))
    labels = np.full(len(truth), -1)
    drawn = np.random.default_rng(seed).choice(pool, round(share * len(pool)), replace=False)
    labels[drawn] = truth[drawn]
    return labels


def with_head(features: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Return the outputs (N, 128), of unit length, of a network trained on noisy, dropped-out copies of the features."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    inputs, given = torch.tensor(features) * features.shape[1] ** 0.5, torch.tensor(labels)
    net = nn.Sequential(nn.Linear(features.shape[1], 256), nn.ReLU(), nn.Linear(256, 128))
    optimizer = torch.optim.AdamW(net.parameters(), 3e-4, weight_decay=1e-2)
    for _ in range(STEPS):
        batch = torch.tensor(rng.choice(len(features), min(BATCH, len(features)), replace=False))
        views = [functional.dropout(inputs[batch] + 0.3 * torch.randn_like(inputs[batch]), 0.5) for _ in range(2)]
        loss = contrast(functional.normalize(net(torch.cat(views)), dim=1), given[batch].repeat(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return functional.normalize(net(inputs), dim=1).numpy()


def trained(name: str, share: float, seed: int, epochs: int, cache: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features (N, d), fine ids and labels (-1 = unlabelled) after a training of one superclass; kept below `cache`."""
    folder = cache / f"{name}-{seed}-{epochs}-{share:g}"
    if not folder.exists():
        _train(name, share, seed, epochs, folder)
    found = feature_files.read(next(folder.rglob("features.json")).parent)
    truth = cifar100.load_superclass(DATA_ROOT / "data", name, download=False).train.labels
    fine = np.array(find(name).fine_ids)
    used = np.isin(found.split, [feature_files.SPLITS.index(part) for part in ("labelled", "unlabelled")])
    labels = np.where(found.labels >= 0, fine[found.labels], -1)
    return found.features[used], fine[truth][used], labels[used]


def _train(name: str, share: float, seed: int, epochs: int, folder: Path) -> None:
    """Train in a store of its own, and leave the features in `folder`."""
    store = folder.with_name(folder.name + ".store").absolute()
    words = [f"--superclass_name={name}", f"--data_root={DATA_ROOT}/data", f"--epochs={epochs}", f"--seed={seed}", *TRAINING]
    words += [f"--prop_train_labels={share}", "--download=false"]
    store.mkdir(parents=True, exist_ok=True)
    Place(store, [], {}).run("train_superclass", *words)
    next(store.rglob("features.json")).parent.rename(folder)


def contrast(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return .65 of the contrast between the two copies (temperature .3) and .35 of that between labelled classes (.1)."""
    n = len(outputs) // 2
    cosines = outputs @ outputs.T
    cosines = cosines.masked_fill(torch.eye(2 * n, dtype=torch.bool), -9.0)
    loss = 0.65 * functional.cross_entropy(cosines / 0.3, torch.arange(2 * n).roll(n))
    told = labels >= 0
    if not told.any():
        return loss
    same = (labels[told][:, None] == labels[told][None]).float().fill_diagonal_(0)
    likely = functional.log_softmax(cosines[told][:, told] / 0.1, dim=1)
    return loss - 0.35 * ((same * likely).sum(1) / same.sum(1).clamp(min=1)).mean()


def all_at(features: np.ndarray, truth: np.ndarray, labels: np.ndarray, k: int, known: tuple[int, ...], seed: int) -> float:
    """Return the v2 accuracy on unlabelled images of semi-supervised k-means with k clusters."""
    free = labels < 0
    found = semi_supervised_kmeans(features, labels, ~free, k, np.random.default_rng(seed)).labels
    return accuracy(truth[free], found[free], set(known)).all


def measure(name: str, seed: int, kind: str, share: float, epochs: int, cache: Path | None) -> Row:
    """Count the classes of one superclass under one draw of labels."""
    known = find(name).known
    if kind == "trained":
        features, truth, labels = trained(name, share, seed, epochs, cache or Path("features"))
    else:
        features, truth = frozen(name, cache)
        labels = labels_of(truth, known, share, seed)
    if kind == "head":
        features = with_head(features, labels, seed)
    began = time.process_time()
    count = estimate(features, labels, seed)
    seconds, n = time.process_time() - began, len(np.unique(truth))
    ends = {k: all_at(features, truth, labels, k, known, seed) for k in {n, count.n}}
    return Row(name, seed, n, count, ends[n], ends[count.n], seconds)


def main() -> None:
    """Print the table of signed errors and how often they are small."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--superclasses", default=NAMES)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--features", choices=("frozen", "head", "trained"), default="head")
    parser.add_argument("--epochs", type=int, default=10, help="of `trained`")
    parser.add_argument("--labelled", type=float, default=0.8, help="labelled share of the known classes")
    parser.add_argument("--cache", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"features: {options.features}; {options.labelled:.0%} of the known classes' images labelled\n", flush=True)
    print(
        "| superclass | seed | K | K' | error | interval | All at K | All at K' | CPU s |\n|---|--:|--:|--:|--:|---|--:|--:|--:|",
        flush=True,
    )
    rows = []
    for name in options.superclasses.split(","):
        for seed in map(int, options.seeds.split(",")):
            row = measure(name, seed, options.features, options.labelled, options.epochs, options.cache)
            rows.append(row)
            counted = f"{row.truth} | {row.count.n} | {row.count.n - row.truth:+d} | {row.count.low} to {row.count.high}"
            print(f"| {name} | {seed} | {counted} | {row.at_truth:.3f} | {row.at_estimate:.3f} | {row.seconds:.1f} |", flush=True)
    right, good = sum(row.right for row in rows), sum(row.as_good for row in rows)
    covered = sum(row.count.low <= row.truth <= row.count.high for row in rows)
    print(f"\n|K' - K| / K <= 10 %: {right} of {len(rows)}; All at K' within .02: {good} of {len(rows)}; K in the interval: {covered}")


if __name__ == "__main__":
    main()
