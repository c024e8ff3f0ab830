"""Recipes per data set and backbone, as data in one place; `auto` options take their values from here.

PUBLISHED is GCD's recipe (Vaze et al. 2022): DINO ViT-B/16, last block trained, SGD. The others are measured on this project's
data; each says on what and what came out.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from core.config import Dataclass
from core.errors import UserError


@runtime_checkable
class Choice(Dataclass, Protocol):
    """What every configuration says of its data set."""

    @property
    def dataset(self) -> str:
        """A data set's name, or `auto`."""

    @property
    def superclass_name(self) -> str:
        """A superclass of CIFAR-100, '' for none."""

    @property
    def data_root(self) -> str:
        """Where the data lie."""


C = TypeVar("C", bound=Choice)
T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """What `auto` stands for. Field names are the options' names."""

    model_name: str = "vit_base_patch16_224.dino"
    image_size: int = 224
    grad_from_block: int = 11
    batch_norm: str = "train"
    head_hidden: int = 2048
    head_bottleneck: int = 256
    head_out: int = 65536
    optimizer: str = "sgd"
    lr: float = 0.1
    weight_decay: float = 1e-4
    batch_size: int = 128
    objective: str = "contrast"
    entropy_weight: float = 2.0
    temperature: float = 1.0
    sup_con_weight: float = 0.5
    prop_train_labels: float = 0.8
    epochs: int = 200
    total_epochs: int = 200
    stage1_epochs: int = 50
    update_interval: int = 5
    pseudo_loss: str = "soft"
    pseudo_loss_weight: float = 0.5
    pseudo_points: str = "core"
    pseudo_coverage: float = 0.3
    pseudo_coverage_end: float = 0.6
    pseudo_for_labeled_mode: str = "all"
    cell_choice: str = "coverage"
    compare_without: bool = False
    threads: int = 0


@dataclass(frozen=True)
class Views:
    """How images of a data set are varied: probabilities and strengths of core.data.views.ViewSpec."""

    flip_prob: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    resize_factor: float = 1 / 0.875


PUBLISHED = Recipe()
TRANSFORMERS = ("vit", "deit")  # names of backbones that the published recipe is for
WITH_CLASSIFIER = ("classifier", "both")  # objectives
LR_OF_ANOTHER = {"sgd": 0.03, "adamw": 5e-4}  # where the optimiser that is asked for is not the recipe's
COVERED = ("margin", "density")  # pseudo-labelled points that are taken up to a coverage
DATA_ROOT = "data"  # the option's default: where CIFAR-100 is looked for; by itself it names no data set

# Chosen by the truth of furniture, fruits_vegetables and electronic_devices, seed 1, at 96 px, 15 epochs (2026-11-28), and frozen:
# unlabelled All/Old/New .922/.847/.945, .890/.905/.878 and .921/.907/.926; with AdamW at 5e-4, 0.5 and the contrast alone
# .848/.860/.844, .881/.900/.866 and .881/.935/.859. Core points cost the contrast .088 All on furniture, margin points gave .027.
MOBILENET_V2 = dataclasses.replace(
    PUBLISHED,
    model_name="mobilenetv2_100",
    image_size=96,
    grad_from_block=5,
    head_hidden=1280,
    head_bottleneck=512,
    head_out=256,
    lr=0.03,
    objective="both",
    temperature=0.3,
    sup_con_weight=0.25,
    pseudo_points="margin",
)

# Of other convolutional networks, all layers trained: as MobileNetV2 was trained before, nothing was measured of these.
UNMEASURED: dict[str, Any] = {
    "image_size": 224,
    "grad_from_block": 0,
    "objective": "contrast",
    "optimizer": "adamw",
    "lr": 5e-4,
    "sup_con_weight": 0.5,
    "pseudo_points": "core",
}

DIGITS = dataclasses.replace(
    PUBLISHED,
    model_name="small_cnn",
    image_size=8,
    grad_from_block=0,
    head_hidden=256,
    head_bottleneck=128,
    head_out=128,
    optimizer="adamw",
    batch_size=64,
    lr=1e-3,
    temperature=0.1,
    sup_con_weight=0.35,
    epochs=30,
    total_epochs=30,
    stage1_epochs=10,
    compare_without=True,
    threads=1,
    pseudo_loss_weight=1.0,
)

NATURAL = Views()
GLYPHS = Views(flip_prob=0.0, contrast=0.0, saturation=0.0, hue=0.0, rotate=15.0, scale=0.15, shear=0.15, shift=0.12, resize_factor=1.0)


def recipe_for(dataset: str, model_name: str) -> Recipe:
    """Return the recipe of a data set (`digits`, `cifar100`, `folder`) and backbone (`auto` = the data set's own)."""
    if dataset == "digits" and model_name in ("auto", "small_cnn"):
        return DIGITS
    if model_name == "small_cnn":
        return dataclasses.replace(DIGITS, image_size=32)
    if model_name.startswith("mobilenetv2"):
        return dataclasses.replace(MOBILENET_V2, model_name=model_name)
    if model_name != "auto" and not model_name.startswith(TRANSFORMERS):
        return dataclasses.replace(MOBILENET_V2, model_name=model_name, **UNMEASURED)
    return PUBLISHED if model_name == "auto" else dataclasses.replace(PUBLISHED, model_name=model_name)


def views_for(dataset: str) -> Views:
    """Return the view strengths of a data set; digits are neither mirrored nor coloured."""
    return GLYPHS if dataset == "digits" else NATURAL


def dataset_of(config: Choice) -> str:
    """Return the data set a configuration means: a superclass alone implies CIFAR-100, a data_root what lies there, nothing the digits.

    Raises UserError for a data_root that was given and holds nothing that is known: the digits are never taken for it.
    """
    if config.dataset != "auto":
        return config.dataset
    if getattr(config, "images", ""):
        return "folder"
    if config.superclass_name:
        return "cifar100"
    if hasattr(config, "superclasses"):  # a command over CIFAR-100's superclasses, unless images of one's own are given
        return "folder" if holds_own_images(config.data_root) else "cifar100"
    if config.data_root in ("", DATA_ROOT):
        return "digits"
    from core.data.catalog import recognised  # brings the data sets' imports, which the digits' start need not wait for

    return recognised(config.data_root)


def _require_effect(config: Choice, dataset: str) -> None:
    """Raise UserError for an option of a data set that is not the one asked for: it would be ignored."""
    images, root, superclass = getattr(config, "images", ""), config.data_root, config.superclass_name
    where = f"images = '{images}'" if images else f"data_root = '{root}'" if config.dataset == "auto" else f"dataset = {dataset}"
    if superclass and (dataset != "cifar100" or (config.dataset == "auto" and holds_own_images(root))):
        raise UserError(f"superclass_name = '{superclass}' is of CIFAR-100, and {where} names other images: leave one of them out")
    novel = getattr(config, "novel_classes", "")
    if novel and dataset == "cifar100":
        raise UserError(f"novel_classes = '{novel}', but a superclass of CIFAR-100 has novel classes of its own: leave it out")
    idle = {"bad_images": "skip", "follow_links": True}
    for name in (name for name, value in idle.items() if getattr(config, name, "") == value and dataset != "folder"):
        said = f"{name} = {str(idle[name]).lower()}"
        raise UserError(f"{said} acts on image files of your own only, which {where} is not: leave it out")


def holds_own_images(data_root: str) -> bool:
    """Say whether a folder that was given holds images of one's own, as a benchmark or a heap, and no CIFAR-100."""
    if data_root in ("", DATA_ROOT):
        return False
    from core.data.catalog import recognised

    try:
        return recognised(data_root) == "folder"
    except UserError:
        return False


def _labels_are_given(config: Choice, dataset: str) -> bool:
    """Say whether the user has said who is labelled, as on a heap or in a table."""
    if dataset != "folder":
        return False
    from core.data.catalog import labels_are_given

    return labels_are_given(config)


def settled(value: T | Literal["auto"]) -> T:
    """Return the value of an option of a configuration that `resolve` has been through.

    Raises:
        ValueError: it is still `auto`.
    """
    if value == "auto":
        raise ValueError("an option is still auto: resolve the configuration first")
    return value


def resolve(config: C) -> C:
    """Return the configuration with every `auto` replaced by the recipe's value; UserError for options that name two data sets."""
    dataset = dataset_of(config)
    _require_effect(config, dataset)
    recipe = recipe_for(dataset, getattr(config, "model_name", "auto"))
    if _labels_are_given(config, dataset):
        recipe = dataclasses.replace(recipe, prop_train_labels=1.0)
    values: dict[str, Any] = {"dataset": dataset}
    if dataset == "cifar100" and not config.superclass_name:
        values["superclass_name"] = "all"
    for f in dataclasses.fields(config):
        if getattr(config, f.name) == "auto" and hasattr(recipe, f.name):
            values[f.name] = getattr(recipe, f.name)
    optimizer = getattr(config, "optimizer", "auto")
    if "lr" in values and optimizer not in ("auto", recipe.optimizer):
        values["lr"] = LR_OF_ANOTHER[optimizer]
    asked = getattr(config, "pseudo_coverage", "auto")
    if asked != "auto" and "pseudo_coverage_end" in values:  # a share that was asked for does not shrink unasked
        values["pseudo_coverage_end"] = max(asked, recipe.pseudo_coverage_end)
    return dataclasses.replace(config, **values)
