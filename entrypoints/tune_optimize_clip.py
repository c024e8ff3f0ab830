"""Search the hyperparameters of optimize_clip: learning rate, batch size, weight decay, dropout, head, loss; a nested run for each trial.

    mlflow run . -e tune_optimize_clip -P data_dir=runs:/<id>/posts -P data_root=<folder> -P image_encoder_name=mobilenetv2_100
        -P image_weights=<file> -P lock_image=true -P text_encoder_name=clip:small-128x2 -P image_size=128 -P n_trials=60
    mlflow run . -e tune_optimize_clip -P sampler=grid ...                             # exactly the older grid, 16 points

Writes, on the study's run: trials.csv, best.json (`optimize_clip -P config=runs:/<id>/best.json`), study.json, plots/. The same
command again continues. Trials are compared by macro-F1 on validation posts and never see test posts.
"""

import sys
from functools import partial

from core.stages.launch import launch
from tuning.stages import TUNE_OPTIMIZE_CLIP

main = partial(launch, TUNE_OPTIMIZE_CLIP)

if __name__ == "__main__":
    sys.exit(main())
