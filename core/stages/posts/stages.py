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

AUGMENT_BAD_CASES = Stage("augment_bad_cases", AugmentImagesConfig, "core.stages.posts.augment:run_images")
AUGMENT_BAD_CASES_TEXT = Stage("augment_bad_cases_text", AugmentTextsConfig, "core.stages.posts.augment:run_texts")
COMPARE_WITH_BASELINE = Stage("compare_with_baseline", BaselineConfig, "core.stages.posts.baseline:run")
ERROR_ANALYSIS = Stage("error_analysis", ErrorAnalysisConfig, "core.stages.posts.error_analysis:run")
HEAD_VARIANT_COMPARE = Stage("head_variant_compare", HeadVariantConfig, "core.stages.posts.compare_variants:heads")
MERGE_BADCASE_AUG = Stage("merge_badcase_aug", MergeConfig, "core.stages.posts.merge:run")
MINE_BAD_CASES = Stage("mine_bad_cases", MineBadCasesConfig, "core.stages.posts.mining:run")
OPTIMIZE_CLIP = Stage("optimize_clip", OptimizeClipConfig, "core.stages.posts.optimize:run", "core.stages.posts.checks:check_training")
POSTS_PIPELINE = Stage("posts_pipeline", PostsPipelineConfig, "core.stages.posts.pipeline:run", "core.stages.posts.checks:check_pipeline")
PREDICT_TEST_CLIP = Stage("predict_test_clip", PredictConfig, "core.stages.posts.predict:run")
PREPARE_POSTS = Stage("prepare_posts", PreparePostsConfig, "core.stages.posts.prepare:run")
PREPROCESS_COMPARE = Stage("preprocess_compare", PreprocessConfig, "core.stages.posts.compare_variants:preprocessing")
ROBUSTNESS_TEST = Stage("robustness_test", RobustnessConfig, "core.stages.posts.robustness:run")

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
