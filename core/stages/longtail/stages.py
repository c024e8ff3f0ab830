"""The stages of long-tail training."""

from __future__ import annotations

from core.stages.longtail.config import LongtailEvaluateConfig, LongtailTrainConfig
from core.stages.longtail.prepare_config import PrepareConfig
from core.stages.stage import Stage

EVALUATE_LONGTAIL = Stage(
    "evaluate_longtail",
    LongtailEvaluateConfig,
    "core.stages.longtail.evaluate:run",
    headline=("checkpoint", "data_root", "test_dir", "test_meta", "part", "gpu"),
)
PREPARE_LONGTAIL = Stage(
    "prepare_longtail",
    PrepareConfig,
    "core.stages.longtail.prepare:run",
    headline=("train_dir", "val_dir", "test_dir", "train_meta", "val_meta", "test_meta", "output_dir", "allow_duplicates"),
)
TRAIN_LONGTAIL = Stage(
    "train_longtail",
    LongtailTrainConfig,
    "core.stages.longtail.train:run",
    "core.stages.longtail.checks:refuse_given",
    begin="core.stages.longtail.train:begin",
    headline=("config", "data_root", "train_dir", "val_dir", "test_dir", "train_meta", "val_meta", "weights", "resume"),
)

STAGES = (
    EVALUATE_LONGTAIL,
    PREPARE_LONGTAIL,
    TRAIN_LONGTAIL,
)
