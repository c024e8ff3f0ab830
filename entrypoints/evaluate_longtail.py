"""Evaluate a checkpoint of train_longtail: figures with intervals, tables, pictures.

    mlflow run . -e evaluate_longtail -P checkpoint=runs:/<id> -P data_root=<folder> -P part=test

Writes evaluation/<part>/: metrics.json, intervals.json, per_class.csv, predictions.csv, and four pictures.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.longtail.stages import EVALUATE_LONGTAIL

main = partial(launch, EVALUATE_LONGTAIL)

if __name__ == "__main__":
    sys.exit(main())
