"""Write metadata and class weights of a long-tailed image set, after checking every image.

    mlflow run . -e prepare_longtail -P train_dir=<folder> -P val_dir=<folder> -P test_dir=<folder> -P output_dir=<folder>

Reads class folders, metadata CSV files or AI Challenger 2018 annotations (train_annotations=...json). Writes
metadata/{train,val,test}_metadata.csv, metadata/class_weights.csv and metadata/report.json; for the 15 coffee and tomato
classes: 2,355 + 608 + 709 images, 11 to 694 a class, one image in both train and test.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.longtail.stages import PREPARE_LONGTAIL

main = partial(launch, PREPARE_LONGTAIL)

if __name__ == "__main__":
    sys.exit(main())
