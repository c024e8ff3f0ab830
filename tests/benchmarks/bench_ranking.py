"""Does a label-free metric rank trials as the truth does? Rank correlations over the random trials of studies.

    python -m tests.benchmarks.bench_ranking --superclasses trees,flowers --trials 12 -- --model_name=mobilenetv2_100 --weights=<...> \
        --image_size=96 --epochs=8 --view_cache=4 --threads=1 --also=objective,temperature

Each trial hides one labelled class (`tune_superclass metric=hidden`), so that all metrics are of the same trainings. Printed for each
superclass: Spearman's rank correlation of every metric with the v2 accuracies on the unlabelled images, over the trials that finished,
and what the truth says of the trial that a metric would choose, beside the best and the mean trial.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run
from scipy.stats import spearmanr

from tests.benchmarks.features import DATA_ROOT
from tuning.superclass import metrics

ROOT = Path(__file__).resolve().parents[2]
TRUTH = ("unlabelled/v2_all", "unlabelled/v2_new")


def trials(store: str, superclass: str) -> list[Run]:
    """Return the finished trials of a superclass's study: runs that have both the metric and the truth, the latest last."""
    client = MlflowClient(store)
    found = client.search_runs([e.experiment_id for e in client.search_experiments()], "attributes.status = 'FINISHED'", max_results=5000)
    own = [run for run in found if superclass in run.data.tags.get("taxon.data", "") and "selection/hidden" in run.data.metrics]
    return [run for run in own if all(name in run.data.metrics for name in TRUTH)]


def report(superclass: str, found: list[Run]) -> str:
    """Return the correlations of a superclass's trials as lines."""
    truth = {name: np.array([run.data.metrics[name] for run in found]) for name in TRUTH}
    lines = [f"{superclass}: {len(found)} trials; best / mean All {truth[TRUTH[0]].max():.3f} / {truth[TRUTH[0]].mean():.3f}"]
    for name, value in metrics("auto").items():
        scores = np.array([value(dict(run.data.metrics)) for run in found])
        told = ", ".join(f"{where.rpartition('_')[2]} {spearmanr(scores, truth[where]).statistic:+.2f}" for where in TRUTH)
        lines.append(f"  {name:10s} rank correlation with {told}; its choice: All {truth[TRUTH[0]][scores.argmax()]:.3f}")
    return "\n".join(lines)


def main() -> None:
    """Run the studies, or read those of a folder, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--superclasses", default="trees,flowers")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--folder", type=Path, required=True, help="its store and cache; a second run of the command goes on there")
    parser.add_argument("options", nargs="*")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    store = f"sqlite:///{given.folder.resolve()}/mlflow.db"
    env = {"MLFLOW_TRACKING_URI": store, "TAXON_CACHE": str(given.folder.resolve() / "cache"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    data = [] if any(word.startswith("--data_root=") for word in given.options) else [f"--data_root={DATA_ROOT / 'data'}"]
    words = [f"--n_trials={given.trials}", "--metric=hidden", "--sampler=random", "--pruner=none", *data, *given.options]
    for superclass in given.superclasses.split(","):
        command = [sys.executable, "-m", "entrypoints.tune_superclass", f"--superclasses={superclass}", *words]
        subprocess.run(command, cwd=ROOT, env=os.environ | env, check=True)
        print(report(superclass, trials(store, superclass)), flush=True)


if __name__ == "__main__":
    main()
