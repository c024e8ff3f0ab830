"""Count a classifier's errors by text length, emoji, image area, script and class, with Wilson intervals.

    mlflow run . -e error_analysis -P data_dir=runs:/<id>/posts -P data_root=<folder> -P weights=runs:/<id>

Writes error_analysis/: errors.json, errors.csv, predictions.csv, error_rates.png, confusion.png. Expect neutral posts to be wrong far
more often than the others.
"""

import sys

from core.stages.launch import launch
from core.stages.posts.config_tools import ErrorAnalysisConfig


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("error_analysis", ErrorAnalysisConfig, "core.stages.posts.error_analysis:run", argv)


if __name__ == "__main__":
    sys.exit(main())
