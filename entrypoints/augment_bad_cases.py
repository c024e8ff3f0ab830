"""Make image variants of bad cases: crop of 0.85..1, flip, light colour jitter.

    mlflow run . -e augment_bad_cases -P badcase_csv=runs:/<id>/bad_cases -P data_root=<folder> -P num_aug=1

Writes badcase_aug/: badcase_augmented.csv (guid,text,image_path,label,source_guid,origin) and images/; num_aug rows a bad case.
"""

import sys

from core.stages.launch import launch
from core.stages.posts.config_tools import AugmentImagesConfig


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("augment_bad_cases", AugmentImagesConfig, "core.stages.posts.augment:run_images", argv)


if __name__ == "__main__":
    sys.exit(main())
