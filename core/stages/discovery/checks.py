"""Mistakes in options that no type can catch, found before anything is read or computed."""

from __future__ import annotations

import dataclasses
from typing import Any

from core.config import check_limits
from core.data import catalog, image_stream
from core.data.superclasses import find
from core.errors import UserError, nearest
from core.evaluation.gcd import VERSIONS
from core.stages.discovery.assign_config import AssignConfig
from core.stages.discovery.config import CacheConfig, ClusterOptions, PipelineConfig, SplitConfig, SsddbcConfig, TrainConfig
from core.stages.discovery.exports import kinds, require_place
from core.training import recipes
from core.training.recipes import WITH_CLASSIFIER, settled


def refuse_training(config: TrainConfig) -> None:
    """Raise UserError for what can be refused of options as they were given, before torch is imported."""
    if not config.train_all_superclasses:
        catalog.require(check_training(recipes.resolve(config)))


def refuse_pipeline(config: PipelineConfig) -> None:
    """Raise UserError for what can be refused of options as they were given; a resumed pipeline's are those of its run."""
    if not config.resume_run_id:
        catalog.require(check_pipeline(recipes.resolve(config)))


def refuse_data(config: CacheConfig | SsddbcConfig) -> None:
    """Raise UserError for a grid that is empty, and for data that are not there."""
    if isinstance(config, ClusterOptions):
        check_grid(config)
    catalog.require(recipes.resolve(config))


def split_options(config: SplitConfig) -> SplitConfig:
    """Return the resolved options of a split, of all of CIFAR-100 where nothing was said; UserError for data that are not there."""
    nothing = config.dataset == "auto" and config.data_root in ("", recipes.DATA_ROOT) and not config.images
    resolved = recipes.resolve(dataclasses.replace(config, dataset="cifar100") if nothing else config)
    catalog.require(resolved)
    return resolved


def refuse_superclasses(config: Any) -> None:
    """Raise UserError for one of `superclasses` that there is none of, and for data that are not there."""
    for name in filter(None, map(str.strip, config.superclasses.split(","))):
        find(name)
    catalog.require(recipes.resolve(config))


def refuse_assign(config: AssignConfig) -> None:
    """Raise UserError for images or a model that nobody named, and for a folder that is none."""
    if not config.data_root and not config.images:
        raise UserError("which images? give data_root=<folder of images>, or images=<CSV file with a column path>")
    if not config.model:
        raise UserError("model is empty; give a registered model (models:/<name>@champion) or the run that registered it")
    if not config.images:
        image_stream.require_folder(config.data_root)


def check_training(config: TrainConfig) -> TrainConfig:
    """Return a resolved training configuration unchanged, or raise UserError naming option, value and remedy."""
    _check_common(config)
    if not 0 <= config.stop_at_epoch <= settled(config.epochs):
        raise UserError(f"stop_at_epoch = {config.stop_at_epoch} is outside 0..epochs ({config.epochs}); lower it or raise epochs")
    if config.labels == "all" and (config.objective != "classifier" or config.pseudo_labels_path):
        raise UserError(
            f"labels = all is the ceiling of a classifier, but objective = {config.objective}"
            f"{' with pseudo labels' if config.pseudo_labels_path else ''}; use objective = classifier alone"
        )
    if config.labels == "all" and config.hidden_classes:
        raise UserError(f"labels = all tells every class, and hidden_classes = {config.hidden_classes} hides some; leave one of them out")
    return config


def check_pipeline(config: PipelineConfig) -> PipelineConfig:
    """Return a resolved pipeline configuration unchanged, or raise UserError."""
    _check_common(config)
    if settled(config.total_epochs) <= settled(config.stage1_epochs):
        raise UserError(
            f"total_epochs = {config.total_epochs} leaves nothing after stage1_epochs = {config.stage1_epochs}; raise total_epochs above it"
        )
    if config.answers_by == "classifier" and config.over_cluster != 1:
        raise UserError(
            f"over_cluster = {config.over_cluster:g} makes more clusters than answers_by = classifier has classes; leave one of them out"
        )
    check_grid(config)
    require_place(kinds(config.export), config.export_to)
    return config


def check_grid(config: ClusterOptions) -> None:
    """Raise UserError for a grid of SSDDBC cells that is empty or impossible."""
    check_limits(config)
    if not 1 <= config.k_min <= config.k_max:
        raise UserError(f"k_min = {config.k_min}, k_max = {config.k_max}: needs 1 <= k_min <= k_max")
    if not 0 <= config.density_min <= config.density_max <= 100:
        raise UserError(
            f"density_min = {config.density_min}, density_max = {config.density_max}: needs 0 <= density_min <= density_max <= 100"
        )


def _check_common(config: TrainConfig | PipelineConfig) -> None:
    check_limits(config)
    for version in config.eval_funcs.split(","):
        if version not in VERSIONS:
            raise UserError(
                f"eval_funcs = '{config.eval_funcs}': '{version}' is no accuracy{nearest(version, VERSIONS)}; use {', '.join(VERSIONS)}"
            )
    if config.answers_by == "classifier" and config.objective not in WITH_CLASSIFIER:
        raise UserError(f"answers_by = classifier, but objective = {config.objective} trains none; use objective = both or classifier")
    if config.select_by == "val" and not config.val_fraction:
        raise UserError("select_by = val needs held-out labelled images, but val_fraction = 0; raise it or use select_by = last")
    if config.select_by == "hidden" and not getattr(config, "hidden_classes", 0):
        raise UserError(
            "select_by = hidden needs hidden_classes of 1 or more, an option of train_superclass; give it, or use select_by = last"
        )
    if config.select_by == "oracle" and "v2" not in config.eval_funcs.split(","):
        raise UserError(f"select_by = oracle needs v2 among eval_funcs = '{config.eval_funcs}'; add it")
