"""What every stage of discovery starts from: data, split, views, device, model; built from the configuration, checked first."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from core.clustering.n_classes import Count
from core.cores import threads
from core.data import catalog
from core.data.images import DiscoveryData
from core.data.problem import Posed, Problem, pose
from core.data.splits import Split, split_of
from core.data.views import ResizedImages, ViewSpec, resize_all
from core.data.withheld import withhold
from core.errors import UserError
from core.evaluation import discovery
from core.evaluation.features import FeatureExtractor
from core.models import backbones
from core.models.discovery import DiscoveryModel
from core.models.fast_trunk import FastTrunk
from core.models.heads import ProjectionHead
from core.stages import machine
from core.stages.discovery.config import TrainConfig
from core.training import precision, recipes

FORWARD_BATCH = 256
SPLIT_OPTIONS = ("prop_train_labels", "labels_per_class", "val_fraction", "seed")
MAX_WORKERS = 4  # more threads only take turns: a view is one short computation


@dataclass
class Materials:
    """Data and machine of one stage.

    Attributes:
        data, split: images and who is labelled.
        spec: how views are made.
        train_images, test_images: resized pixels.
        device, number_format: where and how forward passes run.
    """

    data: Problem
    split: Split
    spec: ViewSpec
    train_images: ResizedImages
    test_images: ResizedImages
    device: torch.device
    number_format: str

    @property
    def autocast(self) -> Callable[[], AbstractContextManager]:
        """Make the context of forward passes."""
        return partial(precision.autocast, self.device, self.number_format)

    def extractors(self, batch_size: int | str = "auto", num_workers: int = 2) -> tuple[FeatureExtractor, FeatureExtractor]:
        """Return the feature extractors of the training and the test images; without gradients `auto` is a large batch."""
        size = FORWARD_BATCH if batch_size == "auto" else int(batch_size)
        train, test = (
            FeatureExtractor(images, self.spec, self.device, self.autocast, size, num_workers=min(num_workers, MAX_WORKERS))
            for images in (self.train_images, self.test_images)
        )
        return train, test


def origin_tags(data: Problem, config: TrainConfig) -> dict[str, str]:
    """Return the tags by which a finished training is found again: of which images, of which novel classes, drawn how."""
    drawn = {name: getattr(config, name) for name in SPLIT_OPTIONS} | {"novel": list(data.novel_names)}
    if config.hidden_classes:  # nor is a training that was not told all labels
        drawn["hidden_classes"] = config.hidden_classes
    if config.labels == "all":  # a ceiling is never taken for a discovery of the same images
        drawn["labels"] = "all"
    return {"taxon.data": data.name, "taxon.data_digest": data.digest, "taxon.images": data.images_digest, "taxon.split": json.dumps(drawn)}


def load_data(config: Any) -> tuple[DiscoveryData, Split]:
    """Read the data set that the (resolved) configuration names, with all that is known of it, and draw its split.

    What trains takes `posed`; this is for whoever is to see the truth.
    """
    data = read(config)
    split = split_of(data, config.prop_train_labels, config.val_fraction, config.seed, config.labels_per_class)
    if len(split.left_out) and not len(split.unlabelled):
        raise UserError(
            f"every unlabelled image of {data.name} is a copy of a labelled one ({len(split.left_out)} of them): "
            "there is nothing to discover; add images that are not labelled yet"
        )
    if hasattr(config, "select_by"):  # a training, not a look at the split
        _require_possible(config, data, split)
        _require_trainable(config, data, split)
    if not len(split.unlabelled):
        raise UserError(f"{data.name} leaves no unlabelled image to discover anything in; lower prop_train_labels or name novel classes")
    return data, split


def read(config: Any) -> DiscoveryData:
    """Read the data set that the (resolved) configuration names."""
    where = config.dataset, config.data_root, config.superclass_name, config.novel_classes, config.download
    return catalog.load(*where, config.images, config.bad_images, config.follow_links)


def posed(config: Any) -> Posed:
    """Read the data set that the (resolved) configuration names: what may be known of it, who is labelled, and the truth apart."""
    found = withhold(pose(*load_data(config)), getattr(config, "hidden_classes", 0))
    if hasattr(config, "select_by"):
        _require_held_out(config, found.data, found.split)
    return found


def digests(loaded: Posed) -> dict[str, str]:
    """Return what stands for data, split and truth in the key of a stage that reports on them."""
    return {"data": loaded.data.digest, "split": loaded.split.digest, "truth": loaded.truth.digest}


def n_settled(config: Any, data: Problem) -> int | None:
    """Return the number of classes that was asked for, else the declared one; None where it has to be estimated."""
    return data.n_declared if config.n_classes == "auto" else int(config.n_classes)


def n_clusters(config: Any, data: Problem, split: Split, train: np.ndarray, count: Count | None = None) -> int:
    """Return the number of clusters to make of features (N, d): what was asked for, else declared, else an estimate (`count`) from them."""
    return n_settled(config, data) or (count or discovery.count_classes(data, split, train, config.seed)).n


def _require_possible(config: Any, data: DiscoveryData, split: Split) -> None:
    """Raise UserError for a number of classes that the images cannot have, and for a selection by a truth that nobody knows."""
    n_known, n_images = len(data.known_classes), len(split.labelled) + len(split.unlabelled)
    if config.n_classes != "auto" and not n_known <= config.n_classes <= n_images:
        raise UserError(
            f"n_classes = {config.n_classes}, but {data.name} has {n_known} labelled classes and {n_images} images to sort; "
            f"give a number from {max(1, n_known)} to {n_images}, or auto"
        )
    if getattr(config, "labels", "given") == "all" and not (data.train.labels[split.unlabelled] >= 0).any():
        raise UserError(f"labels = all needs true classes, and {data.name} has none of its unlabelled images; leave it out")
    if config.select_by == "oracle" and not (data.train.labels[split.unlabelled] >= 0).any():
        raise UserError(f"select_by = oracle needs true classes, and {data.name} has none of its unlabelled images; use last or score")


def _require_trainable(config: Any, data: DiscoveryData, split: Split) -> None:
    """Raise UserError where there is one class, or where a selection wants held-out images and there is none."""
    if data.given is None and len(data.class_names) < 2:
        raise UserError(f"{data.name} has the one class '{data.class_names[0]}': nothing to tell apart; take data of two classes or more")
    _require_held_out(config, data, split)


def _require_held_out(config: Any, data: Problem | DiscoveryData, split: Split) -> None:
    """Raise UserError where a selection wants held-out images of classes that are labelled, and there is none."""
    asked = config.select_by
    if len(split.validation) or asked not in ("val", "score") or (asked == "score" and not config.val_fraction):
        return
    raise UserError(
        f"select_by = {asked}, but val_fraction = {config.val_fraction:g} of {len(split.labelled)} labelled images of {data.name} "
        f"holds none out; {'raise it' if len(split.labelled) else 'use val_fraction = 0'} or use select_by = last"
    )


def gather(config: Any, mean: tuple[float, ...], std: tuple[float, ...], loaded: tuple[Problem, Split] | None = None) -> Materials:
    """Build the materials of a stage; `mean` and `std` are those of the backbone's pretraining images."""
    data, split = loaded or posed(config)[:2]
    views = dataclasses.asdict(recipes.views_for(config.dataset))
    resize = round(config.image_size * views.pop("resize_factor"))
    spec = ViewSpec(image_size=config.image_size, resize=resize, mean=mean, std=std, **views)
    device = machine.settle(config.gpu, threads(config))
    number_format = precision.resolve_precision(config.precision, device)
    return Materials(data, split, spec, resize_all(data.train.source, spec), resize_all(data.test.source, spec), device, number_format)


def build_model(config: Any, pretrained: bool = True) -> tuple[DiscoveryModel, tuple[float, ...], tuple[float, ...]]:
    """Build the untrained model on the CPU, and the channel means and deviations it wants."""
    backbone = backbones.build(
        config.model_name,
        config.image_size,
        config.grad_from_block,
        weights=config.weights,
        pretrained=pretrained,
        seed=config.seed,
        batch_norm=config.batch_norm,
    )
    head = ProjectionHead(backbone.feature_dim, config.head_hidden, config.head_bottleneck, config.head_out, seed=config.seed)
    if backbone.trunk_digest:
        backbone.trunk = FastTrunk(
            backbone.trunk, torch.linspace(-2, 2, 6 * config.image_size**2).view(2, 3, config.image_size, config.image_size)
        )
    return DiscoveryModel(backbone, head), backbone.mean, backbone.std
