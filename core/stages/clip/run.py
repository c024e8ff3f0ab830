"""What `train_clip` does: one training, the folds of a cross-validation, or every configuration of a file."""

from __future__ import annotations

from typing import Any

from core.stages.clip import checks, multi_config
from core.stages.clip.config import TrainClipConfig
from core.tracking.recorder import Recorder
from core.training import distributed


def run(config: TrainClipConfig, run: Recorder | None) -> dict[str, Any]:
    """Run `train_clip`; return its summary ({} on ranks other than 0)."""
    checks.check_given(config)
    with distributed.joined(config.gpu):
        return multi_config.run_configurations(config, run) if config.multi_config else multi_config.train_one(config, run)
