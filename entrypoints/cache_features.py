"""TODO"""

import sys

from core.stages.config import CacheConfig
from core.stages.launch import launch


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("cache_features", CacheConfig, "core.stages.cache:run", argv)


if __name__ == "__main__":
    sys.exit(main())
