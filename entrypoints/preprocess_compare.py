"""Compare sets of cleaning rules: one training each, everything else equal, a child run each.

    mlflow run . -e preprocess_compare -P data_dir=runs:/<id>/posts -P data_root=<folder> [options of optimize_clip]

Writes comparison/: table.csv and comparison.json with 95 % intervals, bars.png. With -P encoder=tfidf the sets differ by .01.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.posts.stages import PREPROCESS_COMPARE

main = partial(launch, PREPROCESS_COMPARE)

if __name__ == "__main__":
    sys.exit(main())
