"""The stages of long-tail training."""

from __future__ import annotations

from core.stages.longtail.config import LongtailEvaluateConfig, LongtailTrainConfig
from core.stages.longtail.prepare_config import PrepareConfig
from core.stages.stage import Stage

EVALUATE_LONGTAIL = Stage("evaluate_longtail", LongtailEvaluateConfig, "core.stages.longtail.evaluate:run")
PREPARE_LONGTAIL = Stage("prepare_longtail", PrepareConfig, "core.stages.longtail.prepare:run")
TRAIN_LONGTAIL = Stage("train_longtail", LongtailTrainConfig, "core.stages.longtail.train:run", "core.stages.longtail.checks:refuse")

STAGES = (
    EVALUATE_LONGTAIL,
    PREPARE_LONGTAIL,
    TRAIN_LONGTAIL,
)
