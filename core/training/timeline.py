"""The long-tail schedule as data: which epoch changes what. `changes` is the whole of it; everything else only folds it.

An epoch option of -1 switches its change off, `auto` is the recipe's epoch. `settled` says at which epoch of this training each acts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol

from core.losses.label import LOSSES

NEVER = -1
RECIPE_EPOCHS = 50
RECIPE = {  # what `auto` is in a training of RECIPE_EPOCHS
    "warmup_epochs": 5,
    "stage2_epoch": 10,
    "stage3_epoch": 20,
    "lr_restart_epoch": 25,
    "mixup_decay_epoch1": 10,
    "mixup_decay_epoch2": 12,
    "mixup_disable_epoch": 15,
    "cutmix_disable_epoch": 10,
    "smoothing_decay_epoch1": 12,
    "smoothing_decay_epoch2": 18,
    "disable_sampler_epoch": NEVER,
    "tail_focal_epoch": NEVER,
    "progressive_resize_epoch": 30,
    "center_update_epoch": 35,
    "final_clean_epoch": 40,
    "drw_epoch": 40,
    "crt_epoch": 40,
}
RECIPE_SIZES = 224, 256  # what `auto` is of image_size and progressive_image_size
WARMUP_START = 0.02  # of the learning rate
END_LR = 1e-6
STAGE2_LR, RESTART_LR = 1.2, 0.4
MIXUP_DECAYS = (0.5, 0.25)  # 0.4 -> 0.2 -> 0.1
SMOOTHING_DECAY = 0.4  # 0.05 -> 0.02
STEP_DECAY, STEPS = 0.1, 3
LEVELS = ("head", "last_stage", "all")
CORRECTING = tuple(name for name, kind in LOSSES.items() if kind.corrects)  # losses that answer the classes' sizes themselves
MARGINS = tuple(name for name, kind in LOSSES.items() if kind.margins)  # meant for cosines
FEWEST_RETRAINED = 2  # epochs in which a new classifier can learn at all


class Options(Protocol):
    """What the schedule reads of a configuration (core/stages/longtail/config.py documents each)."""

    epochs: int
    schedule_epochs: int | Literal["auto"]
    lr: float
    scheduler: str
    warmup_epochs: int | Literal["auto"]
    loss_type: str


@dataclass(frozen=True)
class Phase:
    """Everything that may change between epochs, as it is in one epoch.

    Attributes:
        trained: 'head', 'last_stage' or 'all': what of the network trains.
        lr_factor: multiplies the scheduled learning rate.
        mixup_alpha, cutmix_alpha: of their Beta distributions, 0 = off.
        smoothing: label smoothing.
        balanced: images are drawn by class frequency instead of each once.
        tail_focal: the tail classes' loss is focal.
        image_size: side of the images the network sees, in validation too.
        cosine, center: the label head is a cosine head; the center loss acts.
        light: light augmentation.
        reweighted: class weights act (LDAM's deferred re-weighting).
        retrained: the classifier is trained anew on balanced draws, the backbone as it is (cRT), at a learning rate of its own.
    """

    trained: str = "head"
    lr_factor: float = 1.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    smoothing: float = 0.0
    balanced: bool = False
    tail_focal: bool = False
    image_size: int = 224
    cosine: bool = False
    center: bool = False
    light: bool = False
    reweighted: bool = False
    retrained: bool = False


@dataclass(frozen=True)
class Change:
    """What one option does at one epoch: Phase fields that it sets, and a factor on the learning rate."""

    epoch: int
    option: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    lr_factor: float = 1.0


@lru_cache(maxsize=64)
def settled(config: Any) -> Any:
    """Return the configuration with every epoch option as it acts in this training, and its sizes; a settled one stays as it is.

    The recipe's epochs are scaled to `epochs`, those that were given are taken as they are. With `schedule_epochs` all of them are
    those of a training of that many epochs; 0 = none is scaled. An image size that was given is not exceeded unless a later one is too.
    """
    scaled = {name: _scaled(name, config) for name in RECIPE}
    size = RECIPE_SIZES[0] if config.image_size == "auto" else config.image_size
    later = config.progressive_image_size
    if later == "auto":
        later = RECIPE_SIZES[1] if config.image_size == "auto" else size
    return dataclasses.replace(config, **scaled, schedule_epochs=0, image_size=size, progressive_image_size=later)


def _scaled(name: str, config: Any) -> int:
    epoch, of = unscaled(name, config), scaled_from(name, config)
    return round(epoch * config.epochs / of) if of else epoch


def unscaled(name: str, config: Any) -> int:
    """Return an epoch option as it was given, `auto` as the recipe has it."""
    given = getattr(config, name)
    return RECIPE[name] if given == "auto" else int(given)


def scaled_from(name: str, config: Any) -> int:
    """Return the number of epochs that an epoch option is of, from which it is scaled to `epochs`; 0 = it is as it is."""
    if unscaled(name, config) == NEVER:
        return 0
    if config.schedule_epochs != "auto":
        return int(config.schedule_epochs)
    return RECIPE_EPOCHS if getattr(config, name) == "auto" else 0


def changes(config: Any) -> tuple[Change, ...]:
    """Return the switches of a training in order: the whole schedule, in one place."""
    c = settled(config)
    rows = [
        Change(c.stage2_epoch, "stage2_epoch", {"trained": "last_stage"}, STAGE2_LR),
        Change(c.stage3_epoch, "stage3_epoch", {"trained": "all"}),
        Change(c.lr_restart_epoch, "lr_restart_epoch", {}, RESTART_LR),
        Change(c.mixup_decay_epoch1, "mixup_decay_epoch1", {"mixup_alpha": c.mixup_alpha * MIXUP_DECAYS[0]}),
        Change(c.mixup_decay_epoch2, "mixup_decay_epoch2", {"mixup_alpha": c.mixup_alpha * MIXUP_DECAYS[1]}),
        Change(c.mixup_disable_epoch, "mixup_disable_epoch", {"mixup_alpha": 0.0}),
        Change(c.cutmix_disable_epoch, "cutmix_disable_epoch", {"cutmix_alpha": 0.0}),
        Change(c.smoothing_decay_epoch1, "smoothing_decay_epoch1", {"smoothing": c.label_smoothing * SMOOTHING_DECAY}),
        Change(c.smoothing_decay_epoch2, "smoothing_decay_epoch2", {"smoothing": 0.0}),
        Change(c.disable_sampler_epoch, "disable_sampler_epoch", {"balanced": False}),
        Change(c.tail_focal_epoch, "tail_focal_epoch", {"tail_focal": True}),
        Change(c.progressive_resize_epoch, "progressive_resize_epoch", {"image_size": c.progressive_image_size}),
        Change(
            c.center_update_epoch,
            "center_update_epoch",
            {"cosine": c.use_cosine_classifier or c.loss_type in MARGINS, "center": c.use_center_loss},
        ),
        Change(c.final_clean_epoch, "final_clean_epoch", {"light": True}),
        Change(c.drw_epoch if c.loss_type == "ldam_drw" else NEVER, "drw_epoch", {"reweighted": True}),
        Change(
            c.crt_epoch if c.loss_type == "crt" else NEVER,
            "crt_epoch",
            {"retrained": True, "balanced": True, "trained": "head", "lr_factor": 1.0},
        ),
    ]
    acting = [row for row in rows if row.epoch != NEVER]
    # cRT's head stays what trains, whatever comes later.
    return tuple(sorted(acting, key=lambda row: (row.epoch, row.option == "crt_epoch")))


def retrained_from(config: Any) -> int:
    """Return the epoch (0-based) from which the classifier is trained anew; the number of epochs where it never is."""
    epochs = int(config.epochs)
    if config.loss_type != "crt" or config.crt_epoch == NEVER:
        return epochs
    return min(_scaled("crt_epoch", config), epochs)


def draws_by_frequency(config: Any) -> bool:
    """Say whether images are drawn by class frequency at the start; `auto` does where nothing else corrects for the classes' sizes."""
    if config.balance_sampler != "auto":
        return bool(config.balance_sampler)
    return config.loss_type not in CORRECTING and not config.use_class_weights


def first_phase(config: Any) -> Phase:
    """Return what a training starts with, before any change."""
    return Phase(
        mixup_alpha=config.mixup_alpha,
        cutmix_alpha=config.cutmix_alpha,
        smoothing=config.label_smoothing,
        balanced=draws_by_frequency(config),
        image_size=settled(config).image_size,
        cosine=config.loss_type in MARGINS,
    )


def phase_at(config: Any, epoch: int) -> Phase:
    """Return everything that holds in a global epoch (0-based)."""
    phase = first_phase(config)
    for change in changes(config):
        if change.epoch <= epoch:
            phase = _changed(phase, change)
    if config.model_type == "fewshot" and config.fewshot_freeze_backbone:
        phase = dataclasses.replace(phase, trained="head")
    return phase


def _changed(phase: Phase, change: Change) -> Phase:
    """Return the phase after a change; what trains goes on training and what has faded stays faded, in whatever order the epochs are."""
    settings, factor = dict(change.settings), change.lr_factor
    if phase.retrained:
        factor = 1.0 if "trained" in settings else factor  # that of a backbone which no longer trains
        settings = {name: value for name, value in settings.items() if name not in ("trained", "balanced")}
    elif "trained" in settings and not settings.get("retrained"):
        settings["trained"] = max(phase.trained, settings["trained"], key=LEVELS.index)
    settings |= {name: min(settings[name], getattr(phase, name)) for name in ("mixup_alpha", "smoothing") if name in settings}
    return dataclasses.replace(phase, **{"lr_factor": phase.lr_factor * factor} | settings)


def lr_at(config: Any, epoch: int) -> float:
    """Return the learning rate of a global epoch: a linear warm-up, then the scheduler, times the phase's factor.

    A classifier that is trained anew has its own warm-up and schedule over the epochs that are left, from `lr` again: at the end of
    the first one it would stay as it is drawn.
    """
    phase, warmup = phase_at(config, epoch), min(_scaled("warmup_epochs", config), config.epochs)
    first = retrained_from(config) if phase.retrained else 0
    total = config.epochs - first
    warmup, epoch = warmup * total // config.epochs, epoch - first
    return phase.lr_factor * _scheduled(config, epoch, warmup, total)


def _scheduled(config: Any, epoch: int, warmup: int, total: int) -> float:
    """Return the learning rate at an epoch of a schedule of `total`, its warm-up included."""
    if epoch < warmup:
        return config.lr * (WARMUP_START + (1 - WARMUP_START) * epoch / warmup)
    progress = (epoch - warmup) / max(1, total - warmup)
    if config.scheduler == "cosine":
        return END_LR + (config.lr - END_LR) * (1 + math.cos(math.pi * progress)) / 2
    if config.scheduler == "step":
        return config.lr * STEP_DECAY ** int(progress * STEPS)
    return config.lr


def acting(config: Any) -> list[tuple[Change, dict[str, tuple[Any, Any]]]]:
    """Return the changes that change something within the training, with what they change: {field: (before, after)}."""
    found = []
    for change in changes(config):
        if not 0 < change.epoch < config.epochs:
            continue
        before, after = phase_at(config, change.epoch - 1), phase_at(config, change.epoch)
        names = [*change.settings, *(["lr_factor"] if change.lr_factor != 1.0 else [])]
        differing = {name: (getattr(before, name), getattr(after, name)) for name in names}
        differing = {name: pair for name, pair in differing.items() if pair[0] != pair[1]}
        if differing:
            found.append((change, differing))
    return found


def describe(config: Any) -> list[str]:
    """Return the timeline in readable lines: what of the recipe is other here, what the training starts with, then each switch."""
    start = phase_at(config, 0)
    values = {f.name: getattr(start, f.name) for f in dataclasses.fields(Phase)}
    lines = [
        *_scaling(config),
        *_sizes(config),
        "epoch 0: " + ", ".join(f"{name} {shown(value)}" for name, value in values.items() if value),
    ]
    for change, differing in acting(config):
        what = ", ".join(f"{name} {shown(old)} -> {shown(new)}" for name, (old, new) in differing.items())
        lines.append(f"epoch {change.epoch}: {what} ({change.option})")
    return lines


def _scaling(config: Any) -> list[str]:
    """Return in at most one line from how many epochs the schedule is scaled, and which options are not; `config` as it was given."""
    of = {name: scaled_from(name, config) for name in RECIPE if unscaled(name, config) != NEVER}
    whole = max(of.values(), default=0)
    if whole in (0, config.epochs):
        return []
    given = ", ".join(f"{name} {unscaled(name, config)}" for name, epochs in of.items() if not epochs)
    return [f"schedule of {whole} epochs scaled to {config.epochs}{f'; as given: {given}' if given else ''}"]


def _sizes(config: Any) -> list[str]:
    """Return in at most one line that the images do not grow as the recipe's do, because their size was given."""
    epoch = _scaled("progressive_resize_epoch", config)
    if config.image_size == "auto" or config.progressive_image_size != "auto" or not 0 <= epoch < config.epochs:
        return []
    return [f"image_size {config.image_size} throughout, as given; with progressive_image_size it would change at epoch {epoch}"]


def beyond(config: Any) -> list[str]:
    """Return the epoch options that lie beyond the end of the training, as 'option (epoch)'; they never act."""
    return [f"{change.option} ({change.epoch})" for change in changes(config) if change.epoch >= config.epochs]


def widest(config: Any, until: int) -> str:
    """Return how much of the network has trained in the first `until` epochs: what a checkpoint has to hold."""
    return max((phase_at(config, epoch).trained for epoch in range(until)), key=LEVELS.index, default="head")


def shown(value: Any) -> str:
    """Return a phase's value as people read it."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
