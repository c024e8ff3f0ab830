"""Train an image and a text tower to classify images by a sentence a class: CLIP and SuperCLIP losses, folds, configurations.

    mlflow run . -e train_clip -P data_dir=<folder with <class>/*> -P class_texts_file=<JSON {class: sentence}> -P use_cv=true

Writes checkpoints/, curves, evaluation/{val,test}/ (metrics, tables, pictures) and a registered model `taxon-clip-<data>`;
with use_cv a child run a fold, folds_info.json and cv_summary.json. Beside every result: zero-shot, linear probe, probes of few
images a class, classes known by their sentences alone, WiSE-FT.
"""

import sys
from functools import partial

from core.stages.clip.stages import TRAIN_CLIP
from core.stages.launch import launch

main = partial(launch, TRAIN_CLIP)

if __name__ == "__main__":
    sys.exit(main())
