"""Does a label-free metric rank trials as the truth does? Rank correlations over the random trials of studies.

    python -m tests.benchmarks.bench_ranking
    python -m tests.benchmarks.bench_ranking --superclasses trees,flowers --folder <new> -- --model_name=mobilenetv2_100 --weights=<...> \
        --image_size=96 --epochs=8 --view_cache=4 --threads=1 --also=objective,temperature

Without superclasses on the digits. Each trial hides one labelled class (`tune_superclass metric=hidden`), so that all metrics are of the
same trainings. Printed for each: Spearman's rank correlation of every metric with the v2 accuracies on the unlabelled images, over the
trials that finished, and what the truth says of the trial that a metric would choose, beside the best and the mean trial.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run
from scipy.stats import spearmanr

from core.evaluation.discovery import of_answer
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


def study(folder: Path, superclass: str, n_trials: int, options: list[str]) -> list[Run]:
    """Run a superclass's study ('' = the digits') with its store in `folder`, or go on with it; return its trials."""
    store = f"sqlite:///{folder}/mlflow.db"
    env = {"MLFLOW_TRACKING_URI": store, "TAXON_CACHE": str(folder / "cache"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    data = [f"--superclasses={superclass}"] if superclass else ["--dataset=digits", "--epochs=10"]
    if superclass and not any(word.startswith("--data_root=") for word in options):
        data.append(f"--data_root={DATA_ROOT / 'data'}")
    words = [f"--n_trials={n_trials}", "--metric=hidden", "--sampler=random", "--pruner=none", *data, *options]
    subprocess.run([sys.executable, "-m", "entrypoints.tune_superclass", *words], cwd=ROOT, env=os.environ | env, check=True)
    return trials(store, superclass or "digits")


def report(superclass: str, found: list[Run]) -> str:
    """Return the correlations of a superclass's trials as lines."""
    answered = [of_answer(dict(run.data.metrics), "auto") for run in found]  # what would serve, as the metrics judge it
    truth = {name: np.array([its[name] for its in answered]) for name in TRUTH}
    lines = [f"{superclass}: {len(found)} trials; best / mean All {truth[TRUTH[0]].max():.3f} / {truth[TRUTH[0]].mean():.3f}"]
    for name, value in metrics("auto").items():
        scores = np.array([value(dict(run.data.metrics)) for run in found])
        told = ", ".join(f"{where.rpartition('_')[2]} {spearmanr(scores, truth[where]).statistic:+.2f}" for where in TRUTH)
        lines.append(f"  {name:10s} rank correlation with {told}; its choice: All {truth[TRUTH[0]][scores.argmax()]:.3f}")
    return "\n".join(lines)


def main() -> None:
    """Run the studies, or read those of a folder, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--superclasses", default="")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--folder", type=Path, help="of store and cache, where a second run of the command goes on; else a temporary one")
    parser.add_argument("options", nargs="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.folder or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for superclass in given.superclasses.split(","):
            print(report(superclass or "digits", study(folder, superclass, given.trials, given.options)), flush=True)


if __name__ == "__main__":
    main()
