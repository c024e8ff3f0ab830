"""TODO"""

import sys

from core.stages.config import PipelineConfig
from core.stages.launch import launch


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("pseudo_pipeline", PipelineConfig, "core.stages.pipeline:run", argv)


if __name__ == "__main__":
    sys.exit(main())
