"""Store the features of a checkpoint, extracted with the evaluation transform, for training and test images.

    mlflow run . -e cache_features -P model_path=runs:/<id>/checkpoints -P data_root=<folder>

Writes features/features.safetensors and features/features.json (ids, labels where labelled, splits, digests).
"""

import sys
from functools import partial

from core.stages.discovery.stages import CACHE_FEATURES
from core.stages.launch import launch

main = partial(launch, CACHE_FEATURES)

if __name__ == "__main__":
    sys.exit(main())
