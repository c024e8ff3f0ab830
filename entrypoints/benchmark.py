"""Measure speed: every benchmark times both sides in one run and prints their ratio.

    mlflow run . -e benchmark [-P only=ssddbc]

Writes benchmarks/<name>.txt. Ratios to expect: docs/results.md, "Speed".
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.stages import BENCHMARK

main = partial(launch, BENCHMARK)

if __name__ == "__main__":
    sys.exit(main())
