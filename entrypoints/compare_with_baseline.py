r"""Is a classifier better than a baseline on the untouched test posts? Paired bootstrap and McNemar's test.

    mlflow run . -e compare_with_baseline -P data_dir=runs:/<id>/posts -P data_root=<folder> -P weights=runs:/<id> \
        -P baseline_weights=runs:/<id>

Writes comparison/: comparison.json, predictions.csv, comparison.png. Says better or worse only where it is shown: on 360 posts
differences below some 0.04 rarely are. Runs that held out other test posts are refused.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.posts.stages import COMPARE_WITH_BASELINE

main = partial(launch, COMPARE_WITH_BASELINE)

if __name__ == "__main__":
    sys.exit(main())
