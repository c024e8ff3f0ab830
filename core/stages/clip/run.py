"""What `train_clip` does: one training, the folds of a cross-validation, or every configuration of a file."""

from __future__ import annotations

from typing import Any

import torch

from core.stages.clip import checks, multi_config
from core.stages.clip.config import TrainClipConfig
from core.training import distributed


def run(config: TrainClipConfig, run: Any) -> dict[str, Any]:
    """Run `train_clip`; return its summary ({} on ranks other than 0)."""
    checks.check_given(config)
    distributed.start(torch.device("cpu") if config.gpu == "cpu" or not torch.cuda.is_available() else torch.device("cuda"))
    try:
        return multi_config.run_configurations(config, run) if config.multi_config else multi_config.train_one(config, run)
    finally:
        distributed.stop()
