"""Mistakes in options that no type can catch, found before anything is read or computed."""

from __future__ import annotations

from typing import Any, TypeVar

from core.errors import UserError, nearest
from core.evaluation.gcd import VERSIONS
from core.stages import limits

C = TypeVar("C")
POSITIVE = (
    "batch_size",
    "image_size",
    "lr",
    "temperature",
    "sup_con_temperature",
    "head_hidden",
    "head_bottleneck",
    "head_out",
    "update_interval",
)


def check_training(config: C) -> C:
    """Return a resolved training configuration unchanged, or raise UserError naming option, value and remedy."""
    _check_common(config)
    total = config.epochs
    if total < 1:
        raise UserError(f"epochs = {total}; train for at least 1 epoch")
    if not 0 <= config.stop_at_epoch <= total:
        raise UserError(f"stop_at_epoch = {config.stop_at_epoch} is outside 0..epochs ({total}); lower it or raise epochs")
    return config


def check_pipeline(config: C) -> C:
    """Return a resolved pipeline configuration unchanged, or raise UserError."""
    _check_common(config)
    if config.stage1_epochs < 1:
        raise UserError(f"stage1_epochs = {config.stage1_epochs}; the warm-up takes at least 1 epoch")
    if config.total_epochs <= config.stage1_epochs:
        raise UserError(
            f"total_epochs = {config.total_epochs} leaves nothing after stage1_epochs = {config.stage1_epochs}; raise total_epochs above it"
        )
    check_grid(config)
    return config


def check_machine(config: Any) -> None:
    """Raise UserError for machine options that no computation can have; `auto` is filled in by the checkpoint."""
    for name, least in (("batch_size", 1), ("num_workers", 0), ("threads", 0)):
        value = getattr(config, name)
        if value != "auto" and value < least:
            raise UserError(f"{name} = {value}; use {least} or more")


def check_grid(config: Any) -> None:
    """Raise UserError for a grid of SSDDBC cells that is empty or impossible."""
    if not 1 <= config.k_min <= config.k_max:
        raise UserError(f"k_min = {config.k_min}, k_max = {config.k_max}: needs 1 <= k_min <= k_max")
    if not 0 <= config.density_min <= config.density_max <= 100:
        raise UserError(
            f"density_min = {config.density_min}, density_max = {config.density_max}: needs 0 <= density_min <= density_max <= 100"
        )
    if config.density_step < 1:
        raise UserError(f"density_step = {config.density_step}; use 1 or more")
    if config.max_workers < 0:
        raise UserError(f"max_workers = {config.max_workers}; use 0 (half the usable cores) or more")


def _check_common(config: Any) -> None:
    not_negative = ("weight_decay", "pseudo_loss_weight", "view_cache", "num_workers", "save_ckpt_every", "grad_from_block", "seed")
    limits.require(config, POSITIVE, not_negative, ("sup_con_weight", "momentum"))
    if config.seed >= 2**32:
        raise UserError(f"seed = {config.seed} is too large; use one below {2**32}")
    if config.n_views < 2:
        raise UserError(f"n_views = {config.n_views}; contrast needs at least 2 views of each image")
    for version in config.eval_funcs.split(","):
        if version not in VERSIONS:
            raise UserError(
                f"eval_funcs = '{config.eval_funcs}': '{version}' is no accuracy{nearest(version, VERSIONS)}; use {', '.join(VERSIONS)}"
            )
    if config.select_by == "val" and not config.val_fraction:
        raise UserError("select_by = val needs held-out labelled images, but val_fraction = 0; raise it or use select_by = last")
    if config.select_by == "oracle" and "v2" not in config.eval_funcs.split(","):
        raise UserError(f"select_by = oracle needs v2 among eval_funcs = '{config.eval_funcs}'; add it")
