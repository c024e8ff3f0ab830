"""The stages of training with class sentences."""

from __future__ import annotations

from core.stages.clip.config import TrainClipConfig
from core.stages.stage import Stage

TRAIN_CLIP = Stage(
    "train_clip",
    TrainClipConfig,
    "core.stages.clip.run:run",
    "core.stages.clip.checks:check_given",
    begin="core.stages.clip.multi_config:begin",
    headline=("config", "data_dir", "class_texts_file", "group_pattern", "groups_file", "image_weights", "text_weights", "resume"),
)

STAGES = (TRAIN_CLIP,)
