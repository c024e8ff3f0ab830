"""Compare the heads base, ln, mlp and gated, and image or text alone: same posts, same embeddings, same seeds, a child run each.

    mlflow run . -e head_variant_compare -P data_dir=runs:/<id>/posts -P data_root=<folder> [options of optimize_clip]

Writes comparison/: table.csv and comparison.json with 95 % intervals, bars.png. Differences are a few hundredths at most.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.posts.stages import HEAD_VARIANT_COMPARE

main = partial(launch, HEAD_VARIANT_COMPARE)

if __name__ == "__main__":
    sys.exit(main())
