"""TODO"""

import sys

from core.stages.config import SplitConfig
from core.stages.launch import launch


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("data_split_generator", SplitConfig, "core.stages.splits:run", argv)


if __name__ == "__main__":
    sys.exit(main())
