"""Evaluate a checkpoint of train_longtail: figures with intervals, tables, pictures.

    mlflow run . -e evaluate_longtail -P checkpoint=runs:/<id> -P data_root=<folder> -P part=test

Writes evaluation/<part>/: metrics.json, intervals.json, per_class.csv, predictions.csv, and four pictures.
"""

import sys

from core.stages.launch import launch
from core.stages.longtail.config import LongtailEvaluateConfig


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("evaluate_longtail", LongtailEvaluateConfig, "core.stages.longtail.evaluate:run", argv)


if __name__ == "__main__":
    sys.exit(main())
