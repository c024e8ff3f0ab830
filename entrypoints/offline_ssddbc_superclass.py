"""Cluster a checkpoint's features with the SSDDBC grid and write pseudo labels.

    mlflow run . -e offline_ssddbc_superclass -P ckpt_path=runs:/<id>/checkpoints -P data_root=<folder>

Writes pseudo_labels/<superclass>_<checkpoint>_k<k>_dp<dp>.npz, heatmaps/results_grid.json and the heat maps.
"""

import sys
from functools import partial

from core.stages.discovery.stages import OFFLINE_SSDDBC_SUPERCLASS
from core.stages.launch import launch

main = partial(launch, OFFLINE_SSDDBC_SUPERCLASS)

if __name__ == "__main__":
    sys.exit(main())
