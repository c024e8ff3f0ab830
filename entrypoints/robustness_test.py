"""Score a trained classifier of posts under image and text corruptions in five severities, on the test part.

    mlflow run . -e robustness_test -P data_dir=runs:/<id>/posts -P data_root=<folder> -P weights=runs:/<id>

Writes robustness/: robustness.json and .csv with accuracy and macro-F1 of each cell, robustness.png; nothing is selected by them.
Expect noise and blur at severity 5 to cost several hundredths of accuracy, changed case next to nothing.
"""

import sys

from core.stages.launch import launch
from core.stages.posts.config_tools import RobustnessConfig


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("robustness_test", RobustnessConfig, "core.stages.posts.robustness:run", argv)


if __name__ == "__main__":
    sys.exit(main())
