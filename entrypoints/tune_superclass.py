"""Search learning rate and supervised weight of train_superclass: a study for each superclass, a nested run for each trial.

    mlflow run . -e tune_superclass -P superclasses=trees -P data_root=<folder> -P n_trials=20
    mlflow run . -e tune_superclass -P superclasses=trees -P sampler=grid ...          # exactly the older grid
    mlflow run . -e tune_superclass -P storage=postgresql://user@host/db ...           # the same on N machines: one study

Writes, on the study's run: trials.csv, best.json (`train_superclass -P config=runs:/<id>/best.json`), study.json, plots/. The same
command again continues. Trials are compared by held-out accuracy + silhouette, never by test accuracy.
"""

import sys
from functools import partial

from core.stages.launch import launch
from tuning.stages import TUNE_SUPERCLASS

main = partial(launch, TUNE_SUPERCLASS)

if __name__ == "__main__":
    sys.exit(main())
