"""The stages of discovery."""

from __future__ import annotations

from core.stages.discovery.config import CacheConfig, PipelineConfig, SplitConfig, SsddbcConfig, TrainConfig
from core.stages.stage import Stage

CACHE_FEATURES = Stage("cache_features", CacheConfig, "core.stages.discovery.cache:run")
DATA_SPLIT_GENERATOR = Stage("data_split_generator", SplitConfig, "core.stages.discovery.splits:run")
OFFLINE_SSDDBC_SUPERCLASS = Stage("offline_ssddbc_superclass", SsddbcConfig, "core.stages.discovery.ssddbc:run")
PSEUDO_PIPELINE = Stage("pseudo_pipeline", PipelineConfig, "core.stages.discovery.pipeline:run")
TRAIN_SUPERCLASS = Stage("train_superclass", TrainConfig, "core.stages.discovery.train:run")

STAGES = (
    CACHE_FEATURES,
    DATA_SPLIT_GENERATOR,
    OFFLINE_SSDDBC_SUPERCLASS,
    PSEUDO_PIPELINE,
    TRAIN_SUPERCLASS,
)
