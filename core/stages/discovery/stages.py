"""The stages of discovery."""

from __future__ import annotations

from core.stages.discovery.assign_config import AssignConfig
from core.stages.discovery.config import CacheConfig, PipelineConfig, RelabelConfig, SplitConfig, SsddbcConfig, TrainConfig
from core.stages.discovery.table_config import SuperclassTableConfig
from core.stages.stage import Stage

ASSIGN = Stage(
    "assign",
    AssignConfig,
    "core.stages.discovery.assign:run",
    check="core.stages.discovery.checks:refuse_assign",
    headline=("model", "data_root", "images", "output", "gpu"),
)
CACHE_FEATURES = Stage(
    "cache_features",
    CacheConfig,
    "core.stages.discovery.cache:run",
    check="core.stages.discovery.checks:refuse_data",
    headline=("superclass_name", "dataset", "data_root", "model_path", "auto_find_best", "all_superclasses", "weights", "gpu"),
)
DATA_SPLIT_GENERATOR = Stage(
    "data_split_generator",
    SplitConfig,
    "core.stages.discovery.splits:run",
    check="core.stages.discovery.checks:split_options",
    headline=("superclass_name", "dataset", "data_root", "novel_classes", "prop_train_labels", "labels_per_class", "val_fraction", "seed"),
)
OFFLINE_SSDDBC_SUPERCLASS = Stage(
    "offline_ssddbc_superclass",
    SsddbcConfig,
    "core.stages.discovery.ssddbc:run",
    check="core.stages.discovery.checks:refuse_data",
    begin="core.stages.discovery.ssddbc:begin",
    headline=("superclass_name", "dataset", "data_root", "ckpt_path", "k_min", "k_max", "density_min", "density_max", "gpu"),
)
PSEUDO_PIPELINE = Stage(
    "pseudo_pipeline",
    PipelineConfig,
    "core.stages.discovery.pipeline:run",
    check="core.stages.discovery.checks:refuse_pipeline",
    headline=(
        "superclass_name",
        "dataset",
        "data_root",
        "novel_classes",
        "model_name",
        "weights",
        "stage1_epochs",
        "total_epochs",
        "images",
        "n_classes",
    ),
)
RELABEL = Stage("relabel", RelabelConfig, "core.stages.discovery.relabel:run", headline=("clusters", "run", "output", "take"))
SUPERCLASS_TABLE = Stage(
    "superclass_table",
    SuperclassTableConfig,
    "core.stages.discovery.superclass_table:run",
    check="core.stages.discovery.checks:refuse_superclasses",
    headline=("superclasses", "seeds", "data_root", "weights"),
)
TRAIN_SUPERCLASS = Stage(
    "train_superclass",
    TrainConfig,
    "core.stages.discovery.train:run",
    check="core.stages.discovery.checks:refuse_training",
    begin="core.stages.discovery.train:begin",
    headline=("config", "superclass_name", "novel_classes", "weights", "warmup_model_dir", "pseudo_labels_path", "resume_from_ckpt"),
)

STAGES = (
    ASSIGN,
    CACHE_FEATURES,
    DATA_SPLIT_GENERATOR,
    OFFLINE_SSDDBC_SUPERCLASS,
    PSEUDO_PIPELINE,
    RELABEL,
    SUPERCLASS_TABLE,
    TRAIN_SUPERCLASS,
)
