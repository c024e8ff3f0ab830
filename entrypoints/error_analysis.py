"""Count a classifier's errors by text length, emoji, image area, script and class, with Wilson intervals.

    mlflow run . -e error_analysis -P data_dir=runs:/<id>/posts -P data_root=<folder> -P weights=runs:/<id>

Writes error_analysis/: errors.json, errors.csv, predictions.csv, error_rates.png, confusion.png. Expect neutral posts to be wrong far
more often than the others.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.posts.stages import ERROR_ANALYSIS

main = partial(launch, ERROR_ANALYSIS)

if __name__ == "__main__":
    sys.exit(main())
