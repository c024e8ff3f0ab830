r"""Prepare posts, train, compare, mine out of fold, augment, retrain, judge on the untouched test part, predict.

    mlflow run . -e posts_pipeline -P data_root=<folder> -P image_encoder_name=mobilenetv2_100 -P image_weights=<file> \
        -P text_encoder_name=hf:<folder of a sentence encoder> -P lock_image=true -P lock_text=true

Writes, on one parent run with a child run a stage: summary.json, plots/, predictions/test_with_label.txt. The same command again
continues: finished stages are reused. Figures to expect: docs/posts.md.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.posts.stages import POSTS_PIPELINE

main = partial(launch, POSTS_PIPELINE)

if __name__ == "__main__":
    sys.exit(main())
