"""The stages of posts with images and texts."""

from __future__ import annotations

from core.stages.posts.config import OptimizeClipConfig
from core.stages.posts.config_tools import (
    AugmentImagesConfig,
    AugmentTextsConfig,
    BaselineConfig,
    ErrorAnalysisConfig,
    HeadVariantConfig,
    MergeConfig,
    MineBadCasesConfig,
    PostsPipelineConfig,
    PredictConfig,
    PreparePostsConfig,
    PreprocessConfig,
    RobustnessConfig,
)
from core.stages.stage import Stage

AUGMENT_BAD_CASES = Stage(
    "augment_bad_cases",
    AugmentImagesConfig,
    "core.stages.posts.augment:run_images",
    headline=("badcase_csv", "data_root", "num_aug", "seed", "output_dir"),
)
AUGMENT_BAD_CASES_TEXT = Stage(
    "augment_bad_cases_text",
    AugmentTextsConfig,
    "core.stages.posts.augment:run_texts",
    headline=("badcase_csv", "data_root", "num_aug", "seed", "output_dir"),
)
COMPARE_WITH_BASELINE = Stage(
    "compare_with_baseline",
    BaselineConfig,
    "core.stages.posts.baseline:run",
    headline=("data_dir", "data_root", "weights", "baseline_weights", "metric", "output_dir"),
)
ERROR_ANALYSIS = Stage(
    "error_analysis",
    ErrorAnalysisConfig,
    "core.stages.posts.error_analysis:run",
    headline=("data_dir", "data_root", "part", "weights", "badcase_csv", "output_dir"),
)
HEAD_VARIANT_COMPARE = Stage(
    "head_variant_compare",
    HeadVariantConfig,
    "core.stages.posts.compare_variants:heads",
    headline=("config", "data_dir", "train_csv", "image_encoder_name", "weights", "image_weights"),
)
MERGE_BADCASE_AUG = Stage(
    "merge_badcase_aug",
    MergeConfig,
    "core.stages.posts.merge:run",
    headline=("data_dir", "data_root", "badcase_csv", "badcase_image_csv", "badcase_text_csv", "output_dir"),
)
MINE_BAD_CASES = Stage(
    "mine_bad_cases",
    MineBadCasesConfig,
    "core.stages.posts.mining:run",
    headline=(
        "data_dir",
        "data_root",
        "model",
        "encoder",
        "model_name",
        "image_encoder_name",
        "folds",
        "confidence_below",
        "gpu",
        "output_dir",
    ),
)
OPTIMIZE_CLIP = Stage(
    "optimize_clip",
    OptimizeClipConfig,
    "core.stages.posts.optimize:run",
    "core.stages.posts.checks:check_training",
    begin="core.stages.posts.optimize:begin",
    headline=("config", "data_dir", "train_csv", "val_csv", "test_csv", "image_encoder_name", "weights", "image_weights", "resume"),
)
POSTS_PIPELINE = Stage(
    "posts_pipeline",
    PostsPipelineConfig,
    "core.stages.posts.pipeline:run",
    "core.stages.posts.checks:check_pipeline",
    headline=(
        "data_root",
        "train_file",
        "test_file",
        "encoder",
        "model_name",
        "image_encoder_name",
        "image_weights",
        "epochs",
        "gpu",
        "output_dir",
    ),
)
PREDICT_TEST_CLIP = Stage(
    "predict_test_clip",
    PredictConfig,
    "core.stages.posts.predict:run",
    headline=("weights", "data_root", "test_file", "predict_csv", "output"),
)
PREPARE_POSTS = Stage(
    "prepare_posts",
    PreparePostsConfig,
    "core.stages.posts.prepare:run",
    "core.stages.posts.checks:check_prepare",
    headline=("data_root", "train_file", "test_file", "val_fraction", "test_fraction", "seed", "output_dir"),
)
PREPROCESS_COMPARE = Stage(
    "preprocess_compare",
    PreprocessConfig,
    "core.stages.posts.compare_variants:preprocessing",
    headline=("config", "data_dir", "train_csv", "image_encoder_name", "weights", "image_weights"),
)
ROBUSTNESS_TEST = Stage(
    "robustness_test",
    RobustnessConfig,
    "core.stages.posts.robustness:run",
    headline=("data_dir", "data_root", "part", "weights", "corruptions", "max_posts", "output_dir"),
)

STAGES = (
    AUGMENT_BAD_CASES,
    AUGMENT_BAD_CASES_TEXT,
    COMPARE_WITH_BASELINE,
    ERROR_ANALYSIS,
    HEAD_VARIANT_COMPARE,
    MERGE_BADCASE_AUG,
    MINE_BAD_CASES,
    OPTIMIZE_CLIP,
    POSTS_PIPELINE,
    PREDICT_TEST_CLIP,
    PREPARE_POSTS,
    PREPROCESS_COMPARE,
    ROBUSTNESS_TEST,
)
