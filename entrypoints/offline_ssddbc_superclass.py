"""TODO"""

import sys

from core.stages.config import SsddbcConfig
from core.stages.launch import launch


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("offline_ssddbc_superclass", SsddbcConfig, "core.stages.ssddbc:run", argv)


if __name__ == "__main__":
    sys.exit(main())
