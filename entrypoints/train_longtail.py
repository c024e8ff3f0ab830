"""Train a classifier on classes of very different sizes, on a schedule, to a registered best model; resumable at any epoch.

    mlflow run . -e train_longtail -P data_root=<folder with train/ val/ test/> -P backbone=mobilenetv2_100 -P weights=<file>

Writes checkpoints/, timeline.json, curves, evaluation/{val,test}/ (metrics, tables, pictures) and a registered model
`taxon-longtail-<data>`. Expect on the 15-class set of docs/longtail.md a test accuracy of about .93.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.longtail.stages import TRAIN_LONGTAIL

main = partial(launch, TRAIN_LONGTAIL)

if __name__ == "__main__":
    sys.exit(main())
