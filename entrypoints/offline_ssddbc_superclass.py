"""Cluster a checkpoint's features with the SSDDBC grid and write pseudo labels.

    mlflow run . -e offline_ssddbc_superclass -P ckpt_path=runs:/<id>/checkpoints -P data_root=<folder>

Writes pseudo_labels/<superclass>_<checkpoint>_k<k>_dp<dp>.npz, heatmaps/results_grid.json and the heat maps.
"""

import sys

from core.stages.discovery.config import SsddbcConfig
from core.stages.launch import launch


def main(argv: list[str] | None = None) -> int:
    """Run this entry point; return its exit code."""
    return launch("offline_ssddbc_superclass", SsddbcConfig, "core.stages.discovery.ssddbc:run", argv)


if __name__ == "__main__":
    sys.exit(main())
