"""Search the hyperparameters of train_clip: learning rate, weight decay, temperature, sampling, loss weights; a nested run for each trial.

    mlflow run . -e tune_clip -P data_dir=<folder with <class>/*> -P class_texts_file=<JSON {class: sentence}> -P epochs=20
        -P image_encoder_name=mobilenetv2_100 -P image_weights=<file> -P lock_image=true -P lock_text=true -P n_trials=20

Writes, on the study's run: trials.csv, best.json (`train_clip -P config=runs:/<id>/best.json`), study.json, plots/. The same
command again continues. Trials are compared by balanced accuracy on validation images and never see test images.
"""

import sys
from functools import partial

from core.stages.launch import launch
from tuning.stages import TUNE_CLIP

main = partial(launch, TUNE_CLIP)

if __name__ == "__main__":
    sys.exit(main())
