"""How fast the SSDDBC grid is, all sides measured in one run on the same features.

    python -m tests.benchmarks.bench_ssddbc                          # real features of trees, 2,500 x 1,280
    python -m tests.benchmarks.bench_ssddbc --synthetic 13800        # as large as mammals, overlapping classes, the grid only
    python -m tests.benchmarks.bench_ssddbc --synthetic 50000 --dimensions 768 --k_max 3 --density_min 90

Goals on trees: 247 cells in <= 2 s, >= 300x faster than cell by cell, >= 4x faster than one HDBSCAN fit; 13,800 points in <= 45 s.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from core import cores
from core.clustering import grid
from tests.benchmarks.features import Features, superclass_features

DENSITY_STEP = 5
ORACLE_CELLS = ((3, 40), (6, 95), (12, 70), (21, 90))


def seconds(call: Callable[[], object]) -> tuple[float, object]:
    """Return the wall time of one call, and its result."""
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


def forget_peak() -> float:
    """Let the kernel count peak memory anew from now on, where it can (Linux), and return the memory now in use in MiB."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_mib()


def peak_mib() -> float:
    """Return the process's peak memory in MiB, since it was last forgotten."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def overlapping(n: int, d: int, seed: int = 0, classes: int = 23) -> Features:
    """Return `n` points of overlapping Gaussian classes on the sphere; the last three classes are never labelled, of the rest 80 % are."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    points = 0.15 * rng.normal(size=(classes, d)).astype(np.float32)[truth] + rng.standard_normal((n, d), np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return Features(points, truth, (truth < classes - 3) & (rng.random(n) < 0.8))


def bench_grid(data: Features, ks: range, percentiles: range, workers: int, repeats: int) -> float:
    """Print and return the median time of the whole grid, compiled code warm."""
    small = overlapping(200, 8)
    grid.search(*small, (3, 5), (40, 90), workers)
    before = forget_peak()
    runs = [seconds(lambda: grid.search(*data, ks, percentiles, workers)) for _ in range(repeats)]
    best, times = runs[0][1].best, [run[0] for run in runs]
    cells = len(ks) * len(percentiles)
    print(
        f"grid: {cells} cells, {workers} worker(s): median {statistics.median(times):.2f} s, fastest {min(times):.2f} s of {repeats} run(s)"
    )
    print(f"  peak memory {peak_mib():.0f} MiB ({before:.0f} MiB before: interpreter, libraries, features)")
    print(f"  best (k={best.k}, dp={best.density_percentile}): score {best.score:.3f}, {best.n_clusters} clusters")
    return statistics.median(times)


def bench_cell_by_cell(data: Features, cells: int, repeats: int, ours: float) -> None:
    """Print the ratio to the oracle, extrapolated from a sample of its cells."""
    from tests.core.clustering import oracle

    times = [seconds(lambda key=key: oracle.cluster(*data, *key))[0] for key in ORACLE_CELLS for _ in range(repeats)]
    whole = statistics.mean(times) * cells
    print(f"cell by cell (plain Python of the seven steps): {min(times):.2f}-{max(times):.2f} s a cell, {len(times)} cells timed")
    print(f"  extrapolated to {cells} cells: {whole:.0f} s, so the grid is {whole / ours:.0f}x faster (an estimate, not a full run)")


def bench_hdbscan(data: Features, repeats: int, ours: float) -> None:
    """Print the ratio to one fit of scikit-learn's HDBSCAN with its defaults, which is one cell's worth of answer."""
    from sklearn.cluster import HDBSCAN

    runs = [seconds(lambda: HDBSCAN(copy=True).fit_predict(data.features)) for _ in range(repeats)]
    fit = statistics.median(run[0] for run in runs)
    noise = float((runs[0][1] < 0).mean())
    print(f"one HDBSCAN fit: {fit:.2f} s ({noise:.0%} of the points noise), so the whole grid is {fit / ours:.1f}x faster")


def main() -> None:
    """Parse the command line, measure all sides, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", help="folder with data/ and weights/ (default: ../shared beside the repository)")
    parser.add_argument("--synthetic", type=int, metavar="N", help="N overlapping points instead of real features; the grid only")
    parser.add_argument("--dimensions", type=int, default=1280)
    parser.add_argument("--k_max", type=int, default=21)
    parser.add_argument("--density_min", type=int, default=40)
    parser.add_argument("--max_workers", type=int, default=cores.usable())
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    ks, percentiles = range(3, options.k_max + 1), range(options.density_min, 101, DENSITY_STEP)
    synthetic = options.synthetic
    data = overlapping(synthetic, options.dimensions) if synthetic else superclass_features(options.data_root)
    print(f"{data.features.shape[0]} x {data.features.shape[1]}, {data.labelled_mask.sum()} labelled, {cores.usable()} cores")
    ours = bench_grid(data, ks, percentiles, options.max_workers, 1 if synthetic else options.repeats)
    if not synthetic:
        bench_hdbscan(data, options.repeats, ours)
        bench_cell_by_cell(data, len(ks) * len(percentiles), 1, ours)


if __name__ == "__main__":
    main()
