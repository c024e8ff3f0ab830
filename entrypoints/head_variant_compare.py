"""Compare the heads base, ln, mlp and gated, and image or text alone: same posts, same embeddings, same seeds, a child run each.

    mlflow run . -e head_variant_compare -P data_dir=runs:/<id>/posts -P data_root=<folder> [options of optimize_clip]

Writes comparison/: table.csv and comparison.json with 95 % intervals, bars.png. Differences are a few hundredths at most.
"""

import sys

from core.stages.launch import launch
from core.stages.posts.config_tools import HeadVariantConfig


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("head_variant_compare", HeadVariantConfig, "core.stages.posts.compare_variants:heads", argv)


if __name__ == "__main__":
    sys.exit(main())
