"""Train on one superclass (or all of them), with or without pseudo labels; resumable at any epoch.

    mlflow run . -e train_superclass -P superclass_name=trees -P data_root=<folder> -P epochs=30
    torchrun --nproc_per_node 2 -m entrypoints.train_superclass --superclass_name trees ...

Writes checkpoints/, config.json, curves, and v2 All/Old/New per epoch on unlabelled training and on test images.
"""

import sys
from functools import partial

from core.stages.discovery.stages import TRAIN_SUPERCLASS
from core.stages.launch import launch

main = partial(launch, TRAIN_SUPERCLASS)

if __name__ == "__main__":
    sys.exit(main())
