"""Mistakes in options of post classifiers that no type can catch, found before anything is read or computed."""

from __future__ import annotations

from core.data import text_cleaning
from core.errors import UserError
from core.models import post_heads
from core.stages.posts.config import OptimizeClipConfig
from core.stages.posts.materials import MODALITIES

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
    for name in (*POSITIVE, *POSITIVE_STRENGTHS):
        if getattr(config, name) <= 0:
            raise UserError(f"{name} = {getattr(config, name)}; it must be larger than 0")
    for name in NOT_NEGATIVE:
        if getattr(config, name) < 0:
            raise UserError(f"{name} = {getattr(config, name)}; it must be 0 or more")
    for name in SHARES:
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"{name} = {getattr(config, name)} is outside 0..1; give a share between 0 and 1")
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
    post_heads.check(config.head_variant, MODALITIES[config.modality], config.dropout)
    text_cleaning.rules_of(config.cleaning)
    if config.encoder == "tfidf" and config.resume:
        raise UserError("resume is of no use with encoder = tfidf, which is fitted in one go; leave it out")
    return config
