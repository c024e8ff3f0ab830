"""The studies, declared as stages."""

from __future__ import annotations

from core.stages.stage import Stage
from tuning.config import TuneClipConfig, TuneLongtailConfig, TuneOptimizeClipConfig, TuneSuperclassConfig

TUNE_CLIP = Stage("tune_clip", TuneClipConfig, "tuning.clip:run")
TUNE_LONGTAIL = Stage("tune_longtail", TuneLongtailConfig, "tuning.longtail:run")
TUNE_OPTIMIZE_CLIP = Stage("tune_optimize_clip", TuneOptimizeClipConfig, "tuning.optimize_clip:run")
TUNE_SUPERCLASS = Stage("tune_superclass", TuneSuperclassConfig, "tuning.superclass:run")

STAGES = (
    TUNE_CLIP,
    TUNE_LONGTAIL,
    TUNE_OPTIMIZE_CLIP,
    TUNE_SUPERCLASS,
)
