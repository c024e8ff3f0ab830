r"""Is a classifier better than a baseline on the untouched test posts? Paired bootstrap and McNemar's test.

    mlflow run . -e compare_with_baseline -P data_dir=runs:/<id>/posts -P data_root=<folder> -P weights=runs:/<id> \
        -P baseline_weights=runs:/<id>

Writes comparison/: comparison.json, predictions.csv, comparison.png. Says better or worse only where it is shown: on 360 posts
differences below some 0.04 rarely are. Runs that held out other test posts are refused.
"""

import sys

from core.stages.launch import launch
from core.stages.posts.config_tools import BaselineConfig


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("compare_with_baseline", BaselineConfig, "core.stages.posts.baseline:run", argv)


if __name__ == "__main__":
    sys.exit(main())
