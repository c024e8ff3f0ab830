"""Measure speed: every benchmark times both sides in one run and prints their ratio.

    mlflow run . -e benchmark [-P only=ssddbc]

Writes benchmarks/<name>.txt. Ratios to expect: README, "Speed".
"""

import sys

from core.stages.commands import BenchmarkConfig
from core.stages.launch import launch


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("benchmark", BenchmarkConfig, "core.stages.commands:benchmark", argv)


if __name__ == "__main__":
    sys.exit(main())
