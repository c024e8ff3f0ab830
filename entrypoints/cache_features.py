"""Store the features of a checkpoint, extracted with the evaluation transform, for training and test images.

    mlflow run . -e cache_features -P model_path=runs:/<id>/checkpoints -P data_root=<folder>

Writes features/features.safetensors and features/features.json (ids, labels where labelled, splits, digests).
"""

import sys

from core.stages.discovery.config import CacheConfig
from core.stages.launch import launch


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("cache_features", CacheConfig, "core.stages.discovery.cache:run", argv)


if __name__ == "__main__":
    sys.exit(main())
