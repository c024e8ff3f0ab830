"""The studies, declared as stages."""

from __future__ import annotations

from core.stages.stage import Stage
from tuning.config import TuneClipConfig, TuneLongtailConfig, TuneOptimizeClipConfig, TuneSuperclassConfig

TUNE_CLIP = Stage(
    "tune_clip",
    TuneClipConfig,
    "tuning.clip:run",
    headline=(
        "data_dir",
        "class_texts_file",
        "image_encoder_name",
        "text_encoder_name",
        "image_weights",
        "epochs",
        "n_trials",
        "sampler",
        "storage",
        "gpu",
    ),
)
TUNE_LONGTAIL = Stage(
    "tune_longtail",
    TuneLongtailConfig,
    "tuning.longtail:run",
    check="core.data.longtail:places",
    headline=("data_root", "train_dir", "val_dir", "backbone", "weights", "epochs", "n_trials", "sampler", "storage", "gpu"),
)
TUNE_OPTIMIZE_CLIP = Stage(
    "tune_optimize_clip",
    TuneOptimizeClipConfig,
    "tuning.optimize_clip:run",
    headline=(
        "data_dir",
        "data_root",
        "encoder",
        "model_name",
        "image_encoder_name",
        "image_weights",
        "epochs",
        "n_trials",
        "sampler",
        "storage",
    ),
)
TUNE_SUPERCLASS = Stage(
    "tune_superclass",
    TuneSuperclassConfig,
    "tuning.superclass:run",
    check="core.stages.discovery.checks:refuse_superclasses",
    headline=("superclasses", "dataset", "data_root", "model_name", "weights", "epochs", "n_trials", "sampler", "storage", "gpu"),
)

STAGES = (
    TUNE_CLIP,
    TUNE_LONGTAIL,
    TUNE_OPTIMIZE_CLIP,
    TUNE_SUPERCLASS,
)
