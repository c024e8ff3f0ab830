"""Mistakes in options of post classifiers that no type can catch, found before anything is read or computed."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core import config as configuration
from core.config import C, Dataclass, check_limits
from core.data import posts, text_cleaning
from core.errors import UserError, nearest
from core.models import post_head_names
from core.models.post_head_names import BLEND, HEADS
from core.stages.posts.config import OptimizeClipConfig, PostsTfidf
from core.stages.posts.config_tools import HeadVariantConfig, PostsPipelineConfig, PreparePostsConfig

MODALITIES = {"both": "both", "image": "image_only", "text": "text_only"}
ABLATIONS = ("image", "text")


def check_training(config: OptimizeClipConfig) -> OptimizeClipConfig:
    """Return the configuration unchanged, or raise UserError naming option, value and remedy."""
    check_limits(config)
    if config.word_dropout == 1:
        raise UserError("word_dropout = 1 hides every word; give less than 1")
    if config.char_ngrams == 1:
        raise UserError("char_ngrams = 1: character n-grams start at 2; give 0 for none, or 2 and more")
    post_head_names.check(head_of(config), MODALITIES[config.modality], config.dropout)
    if blends(config) and config.modality == "image":
        raise UserError(f"head_variant = {BLEND} joins towers and n-grams, but modality = image has no text; take another head")
    if blends(config) and config.resume:
        raise UserError(f"resume is of no use with head_variant = {BLEND}, which trains several classifiers; run the same command again")
    text_cleaning.rules_of(config.cleaning)
    if config.encoder == "tfidf" and config.resume:
        raise UserError("resume is of no use with encoder = tfidf, which is fitted in one go; leave it out")
    return config


def blends(config: OptimizeClipConfig) -> bool:
    """Say whether towers and n-grams decide together."""
    return config.encoder == "towers" and config.head_variant == BLEND


def head_of(config: OptimizeClipConfig) -> str:
    """Return the head over the towers: that of a blend's towers is `base`."""
    return "base" if config.head_variant == BLEND else config.head_variant


def watched(config: OptimizeClipConfig) -> str:
    """Return the validation metric that says whether a training still improves: that of `select_by`, macro_f1 for the last epoch."""
    return "macro_f1" if config.select_by == "last" else config.select_by


def with_variant(config: OptimizeClipConfig, name: str) -> OptimizeClipConfig:
    """Return the configuration of a head, or of one side alone (a gate, which needs both, and a blend give way to the base head)."""
    side = {"modality": name, "head_variant": "base" if config.head_variant in ("gated", BLEND) else config.head_variant}
    chosen: dict[str, Any] = {"head_variant": name} if name in (*HEADS, BLEND) else side
    return dataclasses.replace(config, **chosen)


def head_variants(
    config: HeadVariantConfig | PostsPipelineConfig, build: Callable[[OptimizeClipConfig], Any] = lambda one: None
) -> tuple[list[str], list[str]]:
    """Return the variants to train, and a line for each that is left out: only the default's are, where other options forbid them.

    Args:
        build: called with the configuration of each variant; raises UserError where it cannot be built.

    Raises:
        UserError: an unknown name, one that stands twice, or a variant asked for by name that cannot be trained.
    """
    names = chosen(config.variants, (*HEADS, BLEND, *ABLATIONS), "variants")
    plain = check_training(fitted(OptimizeClipConfig, config))
    asked = config.variants != HeadVariantConfig().variants
    possible, left_out = [], []
    for name in names:
        try:
            if not asked and config.modality != "both" and name in ABLATIONS:
                raise UserError(f"modality = {config.modality} leaves one side alone already")
            build(check_training(with_variant(plain, name)))
            possible.append(name)
        except UserError as error:
            if asked or name == config.head_variant:
                raise UserError(f"variants = '{config.variants}', {name}: {error}") from None
            left_out.append(f"variants leaves out {name}: {error}")
    return possible, left_out


def idle_options(config: OptimizeClipConfig) -> list[str]:
    """Return a line for options with another value than their default that do nothing beside this encoder."""
    fields = dataclasses.fields(PostsTfidf if config.encoder == "towers" else config)
    idle = [f for f in fields if getattr(config, f.name) != f.default and not f.metadata["acts"](config)]
    given = [f"{f.name} = {getattr(config, f.name)}" for f in idle]
    return [f"encoder = {config.encoder} makes no use of {', '.join(given)}"] if given else []


def double_corrections(config: OptimizeClipConfig) -> list[str]:
    """Return one line where the classes' sizes are corrected for twice, which only happens when it is asked for."""
    if not (config.encoder == "towers" and config.loss in ("cb", "combo") and config.beta > 0 and config.logit_adjustment):
        return []
    given = f"loss = {config.loss} and logit_adjustment = true"
    return [f"{given} each correct for the classes' sizes: together they overdo it; one of them is enough"]


def announce(lines: Sequence[str]) -> None:
    """Tell whoever watches."""
    for line in lines:
        print(f"taxon: {line}", file=sys.stderr)


def check_pipeline(config: PostsPipelineConfig) -> None:
    """Raise UserError for what a later stage of the pipeline would refuse of its options, before the first one starts."""
    posts.read_index(Path(config.data_root).expanduser() / config.train_file)
    check_training(fitted(OptimizeClipConfig, check_limits(config)))
    if config.variants and config.encoder == "towers":
        head_variants(config)
    elif config.variants:
        chosen(config.variants, (*HEADS, BLEND, *ABLATIONS), "variants")
    for name in config.rule_sets.split(",") if config.rule_sets else ():
        text_cleaning.rules_of(name.strip().replace("+", ","))
    if not config.test_file or not config.val_fraction or not config.test_fraction:
        raise UserError("the pipeline predicts test_file, selects on validation and judges on test posts: give all three a share or name")


def check_prepare(config: PreparePostsConfig) -> None:
    """Raise UserError for a folder of posts that is none."""
    posts.folder_of(config.data_root)


def fitted(kind: type[C], config: Dataclass, **values: Any) -> C:
    """Return a stage's configuration: what it shares with that of a pipeline or comparison, and `values`."""
    given = {name: value for name, value in vars(config).items() if name != "output_dir"}
    return configuration.fitted(kind, given, **values)


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
