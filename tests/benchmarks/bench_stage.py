"""A stage's fixed cost, from asking for it to its first useful work: forked with the imports ready, against a fresh process.

    python -m tests.benchmarks.bench_stage

A 200-epoch run refreshes 30 times, so each stage's start counts. Goal: below 1.5 s.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def forked(rounds: int) -> list[float]:
    """Return the start-up seconds of `rounds` one-epoch trainings on the digits, each in a process of the fork server."""
    from mlflow import MlflowClient

    from core.stages.discovery import checks
    from core.stages.discovery.config import TrainConfig
    from core.stages.discovery.stages import TRAIN_SUPERCLASS
    from core.stages.server import Request, StageServer
    from core.tracking import run as tracking
    from core.tracking import store
    from core.training import recipes

    store.prepare()
    parent = tracking.open_run("benchmark", "benchmark")
    server = StageServer([TRAIN_SUPERCLASS])
    seconds = []
    for round_ in range(rounds + 1):
        config = checks.check_training(recipes.resolve(dataclasses.replace(TrainConfig(), stop_at_epoch=1, seed=round_ + 1)))
        asked = time.time()
        request = Request(TRAIN_SUPERCLASS, config, parent.run_id, f"train {round_}", {}, f"{round_}", asked)
        run_id = server.run(request, lambda values, step: None)
        seconds.append(MlflowClient().get_run(run_id).data.metrics["time/startup_seconds"])
    parent.finish()
    return seconds[1:]  # the first one waits for the server's own imports


def fresh() -> float:
    """Return the seconds a new process needs to import what a stage needs."""
    from core.stages.server import PRELOAD

    began = time.time()
    subprocess.run([sys.executable, "-c", "; ".join(f"import {name}" for name in (*PRELOAD, "core.stages.discovery.train"))], check=True)
    return time.time() - began


def main() -> None:
    """Print both sides and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    root = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "TAXON_CACHE": f"{folder}/cache", "PYTHONPATH": str(root)}
        os.chdir(folder)
        starts = forked(options.rounds)
        imports = statistics.median(fresh() for _ in range(2))
        os.chdir(root)
    median = statistics.median(starts)
    print(f"a stage's start with the fork server: median {median:.2f} s, min {min(starts):.2f}, max {max(starts):.2f} (goal < 1.5 s)")
    print(f"a fresh process needs {imports:.2f} s for its imports alone: {imports / median:.1f}x the forked stage's whole start")


if __name__ == "__main__":
    main()
