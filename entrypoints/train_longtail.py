"""Train a classifier on classes of very different sizes, on a schedule, to a registered best model; resumable at any epoch.

    mlflow run . -e train_longtail -P data_root=<folder with train/ val/ test/> -P backbone=mobilenetv2_100 -P weights=<file>

Writes checkpoints/, timeline.json, curves, evaluation/{val,test}/ (metrics, tables, pictures) and a registered model
`taxon-longtail-<data>`. Expect on the 15-class set of the README a test accuracy of about .93.
"""

import sys

from core.stages.launch import launch
from core.stages.longtail.config import LongtailTrainConfig


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("train_longtail", LongtailTrainConfig, "core.stages.longtail.train:run", argv, "core.stages.longtail.checks:refuse")


if __name__ == "__main__":
    sys.exit(main())
