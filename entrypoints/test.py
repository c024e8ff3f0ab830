"""Run the project's own tests.

    mlflow run . -e test [-P select="-m 'not slow'"]

Writes junit.xml and the counts; the run fails when a test does.
"""

import sys

from core.stages.commands import TestConfig
from core.stages.launch import launch


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("test", TestConfig, "core.stages.commands:test", argv)


if __name__ == "__main__":
    sys.exit(main())
