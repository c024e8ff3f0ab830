"""Seconds (of CPU) and memory of an answer: everything that is made of clusters once they are found, and the files it is handed out in.

    python -m tests.benchmarks.bench_answer                       # 1,000, 5,000, 50,000 and 100,000 images, 1,280 features, 20 classes
    python -m tests.benchmarks.bench_answer --images 5000

Features are drawn around random centres. Time grows as N: the map (t-SNE), silhouette and stability are those of at most 5,000 images, and
are what an answer costs up to there. Prints a Markdown table; peak memory is of the whole process, the features in it.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from core.evaluation import answer_files, answering, places
from core.evaluation.suggest import suggest


def heap(n: int, d: int, k: int) -> tuple[answering.Rows, np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, features (n, d), clusters (n,) and centres (k, d); half of the classes are labelled, a tenth of theirs held out."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(k, d)).astype(np.float32)
    clusters = rng.integers(0, k, n)
    features = np.empty((n, d), np.float32)
    for start in range(0, n, 4096):
        part = slice(start, start + 4096)
        features[part] = centres[clusters[part]] + 1.5 * rng.standard_normal((len(clusters[part]), d), np.float32)
        features[part] /= np.linalg.norm(features[part], axis=1, keepdims=True)
    means = np.stack([features[clusters == c].mean(axis=0) for c in range(k)])
    known = clusters < k // 2
    draw = rng.random(n)
    parts = np.where(known & (draw < 0.1), "validation", np.where(known & (draw < 0.5), "labelled", "unlabelled")).tolist()
    labels = tuple(f"class {c}" if part != "unlabelled" else "" for c, part in zip(clusters.tolist(), parts, strict=True))
    ids = tuple(f"unlabelled/{i:06d}.jpg" for i in range(n))
    return (
        answering.Rows(ids, ids, tuple(f"{i:064x}" for i in range(n)), labels, tuple(parts), np.full(n, -1, np.int64)),
        features,
        clusters,
        means,
    )


def seconds(images: int, d: int, k: int) -> tuple[float, float, float]:
    """Return the seconds of the map alone, of the whole answer, and of its files."""
    rows, features, clusters, centres = heap(images, d, k)
    names = answering.category_names([f"class {c}" for c in range(k // 2)], clusters, k)
    began = time.process_time()
    places.places(places.reduced(features, 1), 1)
    mapped = time.process_time()
    made = answering.make(rows, features, clusters, centres, names, k // 2, 1)
    answered = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        answer_files.write(made.answer, Path(folder), "run", (), suggest(made.answer, 20))
    return mapped - began, answered - mapped, time.process_time() - answered


def main() -> None:
    """Print a row for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 5000, 50_000, 100_000])
    parser.add_argument("--dimensions", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=20)
    options = parser.parse_args()
    print("| images | map, s | answer with its map, s | files, s | peak memory, MiB |\n|---|---|---|---|---|")
    for images in options.images:
        parts = " | ".join(f"{value:.1f}" for value in seconds(images, options.dimensions, options.classes))
        print(f"| {images:,} | {parts} | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} |", flush=True)


if __name__ == "__main__":
    main()
