"""Write who is labelled and who is not, for every superclass, as JSON.

    mlflow run . -e data_split_generator -P data_root=<folder>

Writes splits/superclass_XX_<name>.json and splits/gcd_superclass_splits_summary.json; trees: 1,440 labelled, 160 held out,
900 unlabelled images.
"""

import sys

from core.stages.discovery.config import SplitConfig
from core.stages.launch import launch


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("data_split_generator", SplitConfig, "core.stages.discovery.splits:run", argv)


if __name__ == "__main__":
    sys.exit(main())
