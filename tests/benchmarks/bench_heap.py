"""Memory and seconds of a pipeline on a large heap, stage by stage.

    python -m tests.benchmarks.bench_heap --images 100000            # generated thumbnails, 32 px, ten kinds of which seven are labelled
    python -m tests.benchmarks.bench_heap --images 5000 --against 20000   # how both grow
    python -m tests.benchmarks.bench_heap --cifar100 <folder of cifar-100-binary>

The network is the smallest one, at 16 px, for an epoch before and one after pseudo labels: everything but training takes what it takes
with a large one. Memory is the sum of the proportional set sizes of all processes, looked at twice a second; seconds are those that the
pipeline prints.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
KINDS, KNOWN, LABELLED = 10, 7, 0.05
SHORT = ("--model_name=small_cnn", "--image_size=16", "--stage1_epochs=1", "--update_interval=1", "--total_epochs=2")
SHORT += ("--k_min=9", "--k_max=15", "--threads=1", "--compare_without=false")
STAGE = re.compile(r"^taxon: ((?:train|cluster) \S+)\s+([\d.]+) s")


@dataclass
class Measured:
    """Peak memory (bytes), wall seconds, and seconds of each stage."""

    peak: int = 0
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)


def make_heap(folder: Path, n: int) -> Path:
    """Write `n` thumbnails of ten kinds, stripes of a direction, width and colour each, of which a twentieth of seven kinds is labelled."""
    rng, (rows, columns) = np.random.default_rng(0), np.mgrid[:32, :32]
    for i in range(n):
        kind = int(rng.integers(KINDS))
        angle, width = np.pi * (kind % 5) / 5 + rng.normal(0, 0.08), 3 + 3 * (kind // 5) + rng.normal(0, 0.2)
        wave = np.sin((rows * np.cos(angle) + columns * np.sin(angle)) * 2 * np.pi / width + rng.uniform(0, 6))
        colour = 128 + 90 * np.cos(kind + np.arange(3)) + rng.normal(0, 12, 3)
        picture = np.clip(colour * (0.75 + 0.25 * wave[..., None]) + rng.normal(0, 10, (32, 32, 3)), 0, 255).astype(np.uint8)
        labelled = kind < KNOWN and rng.random() < LABELLED
        place = folder / (f"labelled/kind_{kind}" if labelled else f"unlabelled/{i // 1000:03d}")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{i:06d}.jpg", quality=90)
    return folder


def measure(words: list[str], folder: Path) -> Measured:
    """Run a pipeline in an empty store and cache below `folder`."""
    env = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "TAXON_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    found, start = Measured(), time.perf_counter()
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "entrypoints.pseudo_pipeline", *words, *SHORT]
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        while process.poll() is None:
            found.peak = max(found.peak, sum(_proportional(pid) for pid in _session(process.pid)))
            _note(folder / "log", found)
            time.sleep(0.5)
    found.seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit((folder / "log").read_text()[-2000:])
    _note(folder / "log", found)
    found.stages["before, between and after"] = found.seconds - sum(found.stages.values())
    return found


def _note(log: Path, found: Measured) -> None:
    """Take over the stages that have ended, and print each with the peak so far: a stopped measurement has said what it saw."""
    for match in map(STAGE.match, log.read_text().splitlines()):
        if match and match[1] not in found.stages:
            found.stages[match[1]] = float(match[2])
            print(f"{match[0].removeprefix('taxon: ')}, peak so far {found.peak / 2**30:.2f} GiB", flush=True)


def _session(leader: int) -> list[int]:
    """Return the processes of a session."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _session_of(pid) == leader]


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _proportional(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def show(name: str, found: Measured, other: Measured | None) -> None:
    """Print one measurement as a Markdown table, as ratios to another where there is one."""
    print(f"\n| {name} | seconds |{' ratio |' if other else ''}\n|---|---|{'---|' if other else ''}")
    for stage, seconds in found.stages.items():
        print(f"| {stage} | {seconds:.0f} |" + (f" {seconds / max(other.stages[stage], 0.1):.1f} |" if other else ""))
    print(f"| all | {found.seconds:.0f} |" + (f" {found.seconds / other.seconds:.1f} |" if other else ""))
    print(f"| peak memory, GiB | {found.peak / 2**30:.2f} |" + (f" {found.peak / other.peak:.1f} |" if other else ""), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--against", type=int, default=0, help="a second, larger heap")
    parser.add_argument("--cifar100", default="", help="folder of cifar-100-binary: all of its training images instead")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if asked.cifar100:
            words = ["--dataset=cifar100", "--superclass_name=all", f"--data_root={asked.cifar100}"]
            show("CIFAR-100, 50,000 images", measure(words, Path(scratch)), None)
            return
        first = None
        for n in (asked.images, *([asked.against] if asked.against else [])):
            place = Path(scratch) / str(n)
            heap = make_heap(place / "heap", n)
            found = measure([f"--data_root={heap}"], place)
            show(f"{n:,} thumbnails", found, first)
            first = found


if __name__ == "__main__":
    main()
