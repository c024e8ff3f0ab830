"""Discover categories end to end: warm up, then cluster and train with pseudo labels in turn.

    mlflow run . -e pseudo_pipeline -P superclass_name=trees -P data_root=<folder of cifar-100-binary>
    mlflow run .                       # the same on scikit-learn's digits: offline, a small network, a few minutes

Writes, on one parent run with a child run a stage: continuous curves, checkpoints, features, pseudo labels, heat maps with
results_grid.json, the gallery of discovered categories, the registered best model. Figures to expect: docs/results.md.
"""

import sys
from functools import partial

from core.stages.discovery.stages import PSEUDO_PIPELINE
from core.stages.launch import launch

main = partial(launch, PSEUDO_PIPELINE)

if __name__ == "__main__":
    sys.exit(main())
