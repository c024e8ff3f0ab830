"""Search the hyperparameters of train_longtail: learning rate, weight decay, loss, mixup, moving average; a nested run for each trial.

    mlflow run . -e tune_longtail -P data_root=<folder with train/ val/> -P backbone=mobilenetv2_100 -P weights=<file>
        -P epochs=12 -P n_trials=20

Writes, on the study's run: trials.csv, best.json (`train_longtail -P config=runs:/<id>/best.json`), study.json, plots/. The same
command again continues. Trials are compared by balanced accuracy on validation images and never see test images.
"""

import sys
from functools import partial

from core.stages.launch import launch
from tuning.stages import TUNE_LONGTAIL

main = partial(launch, TUNE_LONGTAIL)

if __name__ == "__main__":
    sys.exit(main())
