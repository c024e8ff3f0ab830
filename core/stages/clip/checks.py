"""Mistakes in SuperCLIP options that no type can catch, found before anything is read or computed."""

from __future__ import annotations

import re

from core.config import check_limits
from core.errors import UserError
from core.stages.clip.config import TrainClipConfig


def check_given(config: TrainClipConfig) -> None:
    """Raise UserError for a mistake in the options; those of several configurations are checked once their file is read."""
    if config.multi_config and not config.config:
        raise UserError("multi_config = true, but config is empty; give the file that lists the configurations")
    if not config.multi_config:
        check_training(config)


def check_training(config: TrainClipConfig) -> TrainClipConfig:
    """Return the configuration unchanged, or raise UserError naming option, value and remedy."""
    check_limits(config)
    if not config.data_dir:
        raise UserError("data_dir is empty; give the folder that holds <class>/* (or train/, val/ and test/ with them)")
    if not config.class_texts_file:
        raise UserError("class_texts_file is empty; give a JSON file {class folder: sentence}")
    _check_folds(config)
    _check_losses(config)
    _check_frozen(config)
    return config


def _check_folds(config: TrainClipConfig) -> None:
    if config.use_cv and config.n_splits < 2:
        raise UserError(f"n_splits = {config.n_splits}; cross-validation needs 2 folds or more")
    if config.fold and not config.use_cv:
        raise UserError(f"fold = {config.fold}, but use_cv = false; set use_cv = true or fold = 0")
    if config.fold > config.n_splits:
        raise UserError(f"fold = {config.fold} is beyond n_splits = {config.n_splits}; give a fold from 1 to {config.n_splits}")
    if config.use_cv and config.resume and not config.fold:
        raise UserError("resume names one training, but use_cv = true trains several; run the same command again, or give a fold")
    if config.group_pattern and config.groups_file:
        raise UserError("group_pattern and groups_file both say which images belong together; give one of them")
    try:
        found = re.compile(config.group_pattern)
    except re.error as error:
        raise UserError(f"group_pattern = '{config.group_pattern}' is no regular expression ({error}); give one like '/(\\d+)_'") from None
    if config.group_pattern and not found.groups:
        raise UserError(f"group_pattern = '{config.group_pattern}' has no (...); put the part that names the group in brackets")


def _check_losses(config: TrainClipConfig) -> None:
    if config.use_superclip_loss and not (config.class_loss_weight or config.contrastive_loss_weight):
        raise UserError("class_loss_weight = 0 and contrastive_loss_weight = 0 leave nothing to train on; raise one of them")
    unused = [] if config.use_superclip_loss else [n for n in ("class_loss_weight", "contrastive_loss_weight") if getattr(config, n) != 1.0]
    if unused:
        raise UserError(f"{unused[0]} = {getattr(config, unused[0])} acts only with use_superclip_loss = true; set that, or leave it at 1")
    if config.word_supervision and config.lock_image:
        raise UserError("word_supervision trains the image network, which lock_image = true freezes; unlock it or give grad_from_block")


def _check_frozen(config: TrainClipConfig) -> None:
    if config.grad_from_block and config.lock_image:
        raise UserError(f"grad_from_block = {config.grad_from_block} and lock_image = true contradict each other; drop one of the two")
    if config.view_cache and not (config.lock_image or config.grad_from_block):
        raise UserError(f"view_cache = {config.view_cache} keeps the outputs of a frozen part; set lock_image or grad_from_block")


def idle_options(config: TrainClipConfig) -> list[str]:
    """Return a line for every option that cannot act beside the others."""
    lines = []
    if config.lock_image and config.augmentation != "none" and not config.view_cache:
        lines.append("lock_image keeps the plain images' features: augmentation does not act; view_cache = 8 lets it")
    if config.contrastive_loss_weight == 0 and config.contrastive_targets != "multi_positive":
        lines.append("contrastive_targets does not act while contrastive_loss_weight = 0")
    return lines


def double_corrections(config: TrainClipConfig) -> list[str]:
    """Return one line where the classes' sizes are corrected for twice, which only happens when it is asked for."""
    from core.training.clip import weighs_classes  # brings torch

    weighted = config.use_superclip_loss and config.class_loss_weight > 0 and weighs_classes(config)
    if not (weighted and config.use_weighted_sampling and config.weight_smooth_factor > 0):
        return []
    return [
        "use_class_weights = true and use_weighted_sampling = true each correct for the classes' sizes: together they overdo it; "
        "one of them is enough (use_class_weights = auto leaves the weights out)"
    ]
