"""Mistakes in options of post classifiers that no type can catch, found before anything is read or computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from core.data import text_cleaning
from core.errors import UserError, nearest
from core.models import post_head_names
from core.models.post_head_names import HEADS
from core.stages import limits
from core.stages.posts.config import OptimizeClipConfig
from core.stages.posts.config_tools import PostsPipelineConfig

MODALITIES = {"both": "both", "image": "image_only", "text": "text_only"}
ABLATIONS = ("image", "text")

POSITIVE = ("epochs", "batch_size", "lr", "head_lr", "image_size", "embed_dim", "word_ngrams", "min_count")
POSITIVE_STRENGTHS = ("regularisation", "image_regularisation")
NOT_NEGATIVE = (
    "freeze_epochs",
    "context_length",
    "lora_rank",
    "weight_decay",
    "clip_norm",
    "early_stop",
    "seed",
    "gamma",
    "cached_views",
    "save_freq",
    "log_interval",
    "num_workers",
    "threads",
    "char_ngrams",
)
SHARES = ("warmup_ratio", "word_dropout", "image_share")


def check_training(config: OptimizeClipConfig) -> OptimizeClipConfig:
    """Return the configuration unchanged, or raise UserError naming option, value and remedy."""
    limits.require(config, (*POSITIVE, *POSITIVE_STRENGTHS), NOT_NEGATIVE, SHARES)
    if not 0 <= config.beta < 1:
        raise UserError(f"beta = {config.beta} must be at least 0 and below 1; 0.9999 is usual")
    if not 0 < config.layer_decay <= 1:
        raise UserError(f"layer_decay = {config.layer_decay} must be above 0 and at most 1; 1 gives one learning rate a tower")
    if config.word_dropout == 1:
        raise UserError("word_dropout = 1 hides every word; give less than 1")
    if config.seed >= 2**32:
        raise UserError(f"seed = {config.seed} is too large; use one below {2**32}")
    if config.char_ngrams == 1:
        raise UserError("char_ngrams = 1: character n-grams start at 2; give 0 for none, or 2 and more")
    post_head_names.check(config.head_variant, MODALITIES[config.modality], config.dropout)
    text_cleaning.rules_of(config.cleaning)
    if config.encoder == "tfidf" and config.resume:
        raise UserError("resume is of no use with encoder = tfidf, which is fitted in one go; leave it out")
    return config


def check_pipeline(config: PostsPipelineConfig) -> None:
    """Raise UserError for what a later stage of the pipeline would refuse of its options, before the first one starts."""
    check_training(fitted(OptimizeClipConfig, config))
    if config.variants:
        chosen(config.variants, (*HEADS, *ABLATIONS), "variants")
    for name in config.rule_sets.split(",") if config.rule_sets else ():
        text_cleaning.rules_of(name.strip().replace("+", ","))
    for name, least in (("robustness_posts", 0), ("folds", 2), ("num_aug", 1)):
        if getattr(config, name) < least:
            raise UserError(f"{name} = {getattr(config, name)}; give {least} or more")
    if not 0 <= config.confidence_below <= 1:
        raise UserError(f"confidence_below = {config.confidence_below} is no probability; give a number from 0 to 1")
    if not config.test_file or not config.val_fraction or not config.test_fraction:
        raise UserError("the pipeline predicts test_file, selects on validation and judges on test posts: give all three a share or name")


def fitted(kind: type, config: PostsPipelineConfig, **values: Any) -> Any:
    """Return a stage's configuration: what it shares with the pipeline's, and `values`."""
    shared = {f.name for f in dataclasses.fields(kind)} & {f.name for f in dataclasses.fields(config)} - {"output_dir"}
    return kind(**{name: getattr(config, name) for name in shared} | values)


def chosen(words: str, known: Sequence[str], option_name: str) -> list[str]:
    """Return the comma-separated names; UserError for none, unknown ones and ones that stand twice."""
    names = [name.strip() for name in words.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UserError(f"{option_name} = '{words}': there is no '{name}'{nearest(name, known)} (choose from {', '.join(known)})")
    refuse_doubles(names, option_name)
    return names


def refuse_doubles(names: Sequence[str], option_name: str) -> None:
    """Raise UserError for no name, or one that stands twice."""
    if not names:
        raise UserError(f"{option_name} is empty; name at least one variant")
    double = next((name for name in names if names.count(name) > 1), "")
    if double:
        raise UserError(f"{option_name} names '{double}' twice; once is enough")
