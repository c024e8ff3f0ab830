"""What `tune_superclass` searches: learning rate and supervised weight of the discovery training, a study for each superclass.

Trials are compared by `score`, held-out accuracy on known classes + silhouette of the unlabelled images. Both are honest: no novel
label is looked at. Held-out accuracy alone (`val`) says nothing about novel images, and a superclass has so few held-out ones that
many trials share its value; the silhouette of all unlabelled images orders them. By `hidden`, trials are not told the labels of some
labelled classes (hidden_classes, 1 unless more are asked for) and compared by how well these are found beside the known ones; the best
configuration is for a training that is told all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from core.data.superclasses import SUPERCLASSES, WHOLE, find
from core.errors import UserError
from core.evaluation.discovery import of_answer, selection_score
from core.stages import keys
from core.stages.discovery import checks, materials
from core.stages.discovery.config import TrainConfig
from core.stages.discovery.stages import TRAIN_SUPERCLASS
from core.tracking.recorder import Recorder
from core.training import recipes
from tuning.config import TuneSuperclassConfig
from tuning.runner import Plan, plan, run_studies
from tuning.space import Choice, Parameters, Range, Space

PSEUDO: Parameters = {
    "pseudo_loss_weight": Range(0.05, 2.0),
    "pseudo_loss": Choice(("soft", "supcon", "prototypical")),
    "pseudo_points": Choice(("core", "margin", "density", "agreed", "all")),
    "pseudo_coverage": Range(0.1, 1.0),
    "pseudo_coverage_end": Range(0.1, 1.0),
    "pseudo_for_labeled_mode": Choice(("off", "all")),
    "pseudo_weight_mode": Choice(("none", "density", "inverse_density")),
}


def ranges(config: TrainConfig) -> Parameters:
    """Return what is always searched; AdamW's learning rates are two orders below SGD's."""
    lr = Range(1e-5, 5e-3, log=True) if recipes.resolve(config).optimizer == "adamw" else Range(1e-3, 2e-1, log=True)
    return {"lr": lr, "sup_con_weight": Range(0.0, 1.0)}


def also(config: TrainConfig) -> Parameters:
    """Return what the option `also` may name; how deep the training reaches ends at the recipe's own first trained block."""
    block = recipes.settled(recipes.resolve(config).grad_from_block)
    more: dict[str, Range | Choice] = {
        "temperature": Range(0.05, 1.0, log=True),
        "weight_decay": Range(1e-6, 1e-2, log=True),
        "grad_from_block": Range(max(0, block - 2), block, whole=True),
        "objective": Choice(("contrast", "classifier", "both")),
        "classifier_weight": Range(0.1, 2.0),
        "entropy_weight": Range(0.5, 4.0),
    }
    return {**more, **PSEUDO} if config.pseudo_labels_path else more  # without pseudo labels these change nothing


def prepare(config: TrainConfig) -> TrainConfig:
    """Fill `auto` in and check."""
    return checks.check_training(recipes.resolve(config))


def read(config: TrainConfig) -> dict[str, str]:
    """Return the digests of all that trials read."""
    posed = materials.posed(config)
    data, split, _truth = posed
    if config.val_fraction and not len(split.validation):
        raise UserError(
            f"val_fraction = {config.val_fraction:g} of {len(split.labelled)} labelled images of {data.name} holds none out to compare "
            "trials by; raise it"
        )
    found = materials.digests(posed)
    return found | keys.digests(config, found)


def metrics(answers_by: str) -> dict[str, Callable[[dict[str, float]], float]]:
    """Return what trials may be compared by, of the answer that would serve."""
    by: dict[str, Callable[[dict[str, float]], float]] = {
        "score": lambda found: found["val/accuracy_old"] + found["selection/silhouette"],
        "val": lambda found: found["val/accuracy_old"],
        "silhouette": lambda found: found["selection/silhouette"],
        "hidden": lambda found: selection_score(found, "hidden", 0),
    }

    def answered(value: Callable[[dict[str, float]], float]) -> Callable[[dict[str, float]], float]:
        return lambda found: value(of_answer(found, answers_by))

    return {name: answered(value) for name, value in by.items()}


SPACE = Space(
    name="superclass",
    stage=TRAIN_SUPERCLASS,
    ranges=ranges,
    also=also,
    grid={"lr": (0.1, 0.05, 0.01, 0.001), "sup_con_weight": tuple(round(0.2 + 0.05 * i, 2) for i in range(13))},
    metrics=metrics("auto"),
    judges=("answers_by",),
    of_best=lambda config: {"hidden_classes": 0} | ({"select_by": "last"} if config.select_by == "hidden" else {}),
    prepare=prepare,
    inputs=read,
)


def run(config: TuneSuperclassConfig, run: Recorder) -> dict[str, Any]:
    """Run `tune_superclass`: every study of the command."""
    return run_studies(plans(config), run)


def plans(config: TuneSuperclassConfig) -> list[Plan]:
    """Return the command's studies, all checked before the first one starts."""
    if config.metric in ("auto", "score", "val", "hidden") and not config.val_fraction:
        raise UserError("val_fraction = 0 leaves no held-out images to compare trials by; raise it or use metric = silhouette")
    if config.answers_by == "classifier" and "objective" in config.also.split(","):
        raise UserError(
            "answers_by = classifier, but also = objective searches the contrast, too, which trains none; leave one of them out"
        )
    names = named(config)
    if config.metric == "hidden" and not config.hidden_classes:
        config = dataclasses.replace(config, hidden_classes=1)
    space = dataclasses.replace(SPACE, metrics=metrics(config.answers_by))
    if not names:
        return [plan(space, config, recipes.dataset_of(config))]
    return [plan(space, config, name, len(names) > 1, superclass_name=name, dataset="cifar100") for name in names]


def named(config: TuneSuperclassConfig) -> list[str]:
    """Return the superclasses to search on; none for other data sets."""
    if config.dataset in ("digits", "folder"):
        if config.superclasses:
            raise UserError(
                f"superclasses = '{config.superclasses}' are CIFAR-100's, but dataset = {config.dataset}; leave one of them out"
            )
        return []
    if config.superclasses and config.superclass_name:
        raise UserError("superclasses and superclass_name are both given; name all of them in superclasses")
    text = config.superclasses or config.superclass_name
    found = [find(name.strip()) for name in text.split(",")] if text else [one for one in SUPERCLASSES if one.novel]
    for superclass in found:
        if superclass is not WHOLE and len(superclass.known) + len(superclass.novel) < 2:
            raise UserError(f"superclass '{superclass.name}' has one class, so there is nothing to tell apart; leave it out")
    return [superclass.name for superclass in dict.fromkeys(found)]
