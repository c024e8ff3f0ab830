"""What labels of suggested images are worth: simulated clicks on frozen features of CIFAR-100 superclasses, against random images.

    python -m tests.benchmarks.bench_suggest                      # five superclasses, three seeds, 50 clicks each
    python -m tests.benchmarks.bench_suggest --seeds 10 --superclasses trees

After every 10 clicks the clicked images are labelled, the heap is clustered anew with the true number of classes, and New (v2) is taken of
the unlabelled images that nobody clicked. Needs data/ and weights/ beside the repository, as `tests.benchmarks.features` does; prints a
Markdown table of New and of its gain over no click. Features are kept in `--kept` between calls.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from core.clustering.kmeans import assign, semi_supervised_kmeans
from core.data import catalog
from core.data.splits import Split, make_split
from core.data.views import ViewSpec, resize_all
from core.evaluation import answering
from core.evaluation.answer import Answer
from core.evaluation.features import FeatureExtractor, normalise
from core.evaluation.gcd import accuracy
from core.evaluation.suggest import suggest
from core.models import backbones
from core.models.discovery import DiscoveryModel
from core.models.heads import ProjectionHead
from tests.benchmarks.features import DATA_ROOT

SUPERCLASSES = ("trees", "flowers", "fruits_vegetables", "insects_arthropods", "reptiles")
SIZE = 96
CLICKS = 10


class Heap(NamedTuple):
    """Features (N, d), true labels (N,), the known classes."""

    features: np.ndarray
    truth: np.ndarray
    known: frozenset[int]


def heap(name: str, root: Path, kept: Path | None) -> Heap:
    """Return the frozen features of a superclass's training images."""
    data = catalog.load("cifar100", str(root / "data"), name, "", False)
    file = kept / f"{name}.npy" if kept else None
    if file and file.exists():
        return Heap(np.load(file), data.train.labels, data.known_classes)
    backbone = backbones.build("mobilenetv2_100", SIZE, 5, str(root / "weights" / "mobilenetv2_100.safetensors"))
    model, spec = DiscoveryModel(backbone, ProjectionHead(backbone.feature_dim, 64, 64, 64)), ViewSpec(SIZE)
    resized = resize_all(data.train.source, spec)
    found = FeatureExtractor(resized, spec, torch.device("cpu"), contextlib.nullcontext, 128, cache_bytes=0).extract(model)
    if file:
        kept.mkdir(parents=True, exist_ok=True)
        np.save(file, normalise(found))
    return Heap(normalise(found), data.train.labels, data.known_classes)


def clustered(data: Heap, split: Split, clicked: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return clusters (N,), centres (K, d) and the labelled classes, once the clicked images are labelled too."""
    labelled = np.concatenate([split.labelled, clicked])
    free = np.setdiff1d(split.unlabelled, clicked)
    used = np.concatenate([labelled, free])
    mask = np.arange(len(used)) < len(labelled)
    n_classes = len(np.unique(data.truth))
    found = semi_supervised_kmeans(data.features[used], data.truth[used], mask, n_classes, np.random.default_rng(seed))
    clusters = assign(data.features, found.centres)
    clusters[used] = found.labels
    return clusters, found.centres, np.unique(data.truth[labelled]).tolist()


def answer(data: Heap, split: Split, clicked: np.ndarray, seed: int) -> Answer:
    """Return the answer that a person would see after these clicks."""
    clusters, centres, classes = clustered(data, split, clicked, seed)
    n = len(data.truth)
    parts, labels = np.full(n, "unlabelled", object), np.full(n, "", object)
    parts[split.labelled], parts[clicked], parts[split.validation] = "labelled", "labelled", "validation"
    told = parts != "unlabelled"
    labels[told] = [f"class {c}" for c in data.truth[told]]
    ids = tuple(str(i) for i in range(n))
    rows = answering.Rows(ids, ids, ids, tuple(labels), tuple(parts), np.full(n, -1, np.int64))
    names = answering.category_names([f"class {c}" for c in classes], clusters, len(centres))
    return answering.make(rows, data.features, clusters, centres, names, len(classes), seed).answer


def new_accuracy(data: Heap, split: Split, clicked: np.ndarray, seed: int) -> float:
    """Return New of the unlabelled images that nobody clicked."""
    clusters = clustered(data, split, clicked, seed)[0]
    rest = np.setdiff1d(split.unlabelled, clicked)
    return accuracy(data.truth[rest], clusters[rest], data.known).new


def course(data: Heap, seed: int, rounds: int, suggested: bool) -> list[float]:
    """Return New after 0, 10, 20, ... clicks on suggested or on random images."""
    split = make_split(data.truth, data.known, 0.8, 0.1, seed)
    rng = np.random.default_rng([seed, 9])
    clicked = np.zeros(0, np.int64)
    found = [new_accuracy(data, split, clicked, seed)]
    for _ in range(rounds):
        if suggested:
            rows = suggest(answer(data, split, clicked, seed), CLICKS)
            fresh = np.array([int(row["id"]) for row in rows], np.int64)
        else:
            fresh = rng.choice(np.setdiff1d(split.unlabelled, clicked), CLICKS, replace=False)
        clicked = np.concatenate([clicked, fresh])
        found.append(new_accuracy(data, split, clicked, seed))
    return found


def main() -> None:
    """Print New after each 10 clicks, as a Markdown table: mean over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--superclasses", nargs="+", default=list(SUPERCLASSES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--root", type=Path, default=DATA_ROOT)
    parser.add_argument("--kept", type=Path, default=None)
    options = parser.parse_args()
    # Neither is looked at when images are suggested, and the map takes most of an answer's time.
    answering.places = lambda points, seed: points[:, :2]
    answering._shape = lambda *_: {}
    clicks = [CLICKS * i for i in range(options.rounds + 1)]
    print(f"New (v2), mean of {options.seeds} seeds, after so many clicks\n")
    print("| superclass | images clicked | " + " | ".join(map(str, clicks)) + " |")
    print("|---|---|" + "---|" * len(clicks))
    means: dict[bool, list[list[float]]] = {True: [], False: []}
    for name in options.superclasses:
        data = heap(name, options.root, options.kept)
        for suggested in (True, False):
            courses = np.array([course(data, seed, options.rounds, suggested) for seed in range(1, options.seeds + 1)])
            means[suggested].append(courses.mean(axis=0).tolist())
            shown = " | ".join(f"{value:.3f}" for value in courses.mean(axis=0))
            print(f"| {name} | {'suggested' if suggested else 'random'} | {shown} |", flush=True)
    for suggested, which in ((True, "suggested"), (False, "random")):
        gains = np.mean(means[suggested], axis=0) - np.mean(means[suggested], axis=0)[0]
        print(f"| gain, all | {which} | " + " | ".join(f"{gain:+.3f}" for gain in gains) + " |")


if __name__ == "__main__":
    main()
