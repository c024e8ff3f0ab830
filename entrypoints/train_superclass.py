"""TODO"""

import sys

from core.stages.config import TrainConfig
from core.stages.launch import launch


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("train_superclass", TrainConfig, "core.stages.train:run", argv)


if __name__ == "__main__":
    sys.exit(main())
