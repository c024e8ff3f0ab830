"""The typed configuration of long-tail training and evaluation; names and defaults are those of the older tool where it had them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

from core.config import HALF, SEED, SHARE, Auto, ConfigFile, machine, option, place
from core.losses.label import LossType
from core.stages.kept import KEPT, Kept
from core.training import timeline

scheduled = partial(option, acts=lambda config: False)
"""Declares an option that acts through the timeline alone: what the epochs then are like is in the stage key instead of it."""
EPOCH: dict[str, Any] = {"at_least": timeline.NEVER, "wrong": "; give an epoch from 0, or -1 for never"}


def of_recipe(name: str, doc: str, **limits: Any) -> Any:
    """Declare an epoch option that is the recipe's unless it is given."""
    return scheduled("auto", f"{doc}; auto = {timeline.RECIPE[name]} of {timeline.RECIPE_EPOCHS} epochs, scaled to `epochs`", **limits)


@lru_cache(maxsize=8)
def _phases(config: Any) -> tuple[timeline.Phase, ...]:
    return tuple(timeline.phase_at(config, epoch) for epoch in range(config.epochs))


def _in_some_epoch(holds: Callable[[timeline.Phase], Any]) -> Callable[[Any], bool]:
    """Return what says of a configuration whether something holds in one of its epochs."""
    return lambda config: any(holds(phase) for phase in _phases(config))


@dataclass(frozen=True)
class LongtailData:
    """Which images: class folders, or metadata tables that `prepare_longtail` (or a hand) wrote."""

    data_root: str = place("", "folder with train/, val/ and test/ class folders: what *_dir leave open is taken from it")
    train_dir: str = place("", "class folders of training images; with train_meta the folder its paths start from")
    val_dir: str = place("", "the same for validation")
    test_dir: str = place("", "the same for testing; empty = no test part")
    train_meta: str = place("", "metadata CSV of the training images (needs image_path and label_61 or label; group: never parted)")
    val_meta: str = place("", "metadata CSV of the validation images")
    test_meta: str = place("", "metadata CSV of the test images")
    class_weights: str = place("", "CSV of class weights; empty = N / (C * n_c) of the training images")


@dataclass(frozen=True)
class LongtailImages(LongtailData):
    """Which images, and which of them choose the epoch where no validation part is named."""

    val_share: float = option(
        0.1,
        "share of the training images, by class and by whole groups of alike images, that is the validation part where none is given; "
        "0 = none, which only select_by = last takes",
        digest="data",
        **HALF,
    )
    seed: int = option(42, "seed of initialisation, sampling, augmentation, mixing, and of what val_share splits off", **SEED)


@dataclass(frozen=True)
class LongtailMachine:
    """How the machine is used."""

    num_workers: int = machine(4, "threads that read and augment images; at most 4 are used", at_least=0)
    gpu: str = machine("auto", "auto (CUDA, MPS, CPU in this order), cpu, mps, or a CUDA index")
    threads: int = machine(0, "CPU threads of a process's computations; 0 = all usable cores", at_least=0)
    use_amp: bool = option(
        True, "bf16 where the device is fast in it, else fp16 with loss scaling on CUDA, else fp32", digest="number_format"
    )


@dataclass(frozen=True)
class LongtailModel:
    """Backbone and heads."""

    model_type: Literal["baseline", "multitask", "fewshot"] = option(
        "baseline", "one head; heads for label, crop, disease and severity; or a frozen backbone with a hidden layer"
    )
    backbone: str = option("resnet50", "any timm model, or small_cnn")
    pretrained: bool = option(True, "start from pretrained weights")
    weights: str = place("", "local .safetensors with the backbone's weights; empty = download them where pretrained", "weights")
    dropout: float = option(0.3, "dropout before the heads", **SHARE)
    image_size: int | Auto = option(
        "auto", "side of the square crop in pixels; auto = {}, later {}".format(*timeline.RECIPE_SIZES), above=0
    )
    use_cosine_classifier: bool = scheduled(False, "cosine head from center_update_epoch on, made from the linear one")
    use_center_loss: bool = scheduled(False, "center loss from center_update_epoch on")
    center_loss_weight: float = option(
        0.01,
        "weight of the center loss, which is of features of length 1: 0..4 on any backbone",
        acts=_in_some_epoch(lambda phase: phase.center),
        at_least=0,
    )
    fewshot_freeze_backbone: bool = option(True, "fewshot: the backbone never trains", acts=lambda c: c.model_type == "fewshot")
    fewshot_hidden: int = option(512, "fewshot: width of the hidden layer", acts=lambda c: c.model_type == "fewshot", above=0)
    fewshot_dropout: float = option(0.5, "fewshot: dropout after the hidden layer", acts=lambda c: c.model_type == "fewshot", **SHARE)
    fewshot_head_lr_scale: float = option(
        5.0, "fewshot: the head's learning rate over lr", acts=lambda c: c.model_type == "fewshot", above=0
    )


@dataclass(frozen=True)
class LongtailOptimiser:
    """Optimiser and learning rate."""

    epochs: int = option(50, "epochs", above=0)
    batch_size: int = option(32, "global batch size, over all processes", above=0)
    lr: float = option(0.0005, "learning rate after the warm-up", above=0)
    weight_decay: float = option(0.0001, "weight decay of matrices and kernels; biases and norms have none", at_least=0)
    optimizer: Literal["adamw", "adam", "sgd"] = option("adamw", "optimiser")
    momentum: float = option(0.9, "momentum of sgd", acts=lambda c: c.optimizer == "sgd", **SHARE)
    scheduler: Literal["cosine", "step", "none"] = scheduled(
        "cosine", "learning rate after the warm-up: cosine to 1e-6, a tenth each third, flat"
    )
    warmup_epochs: int | Auto = of_recipe("warmup_epochs", "epochs of linear warm-up from 0.02 * lr", at_least=0)
    accumulation_steps: int = option(1, "batches whose gradients make one optimiser step", above=0)
    clip_norm: float = option(1.0, "largest gradient norm; 0 = any", at_least=0)
    use_ema: bool = option(False, "score, save and register the moving average of the weights")
    ema_decay: float = option(
        0.999, "decay of the moving average a step, at step n at most (1 + n) / (10 + n)", acts=lambda c: c.use_ema, **SHARE
    )


@dataclass(frozen=True)
class LongtailLoss:
    """Loss, sampling, mixing; the defaults are what won on validation (docs/longtail.md), not the older tool's weighted cross-entropy."""

    loss_type: Literal[LossType, "multitask"] = option(
        "ce",
        "loss of the label: logit_adjustment = ce, then tau chosen on validation; ldam_drw = margins, re-weighted from drw_epoch; "
        "crt = ce, then a new classifier on balanced draws from crt_epoch; multitask = older name of model_type = multitask with ce",
    )
    use_class_weights: bool = option(False, "class weights in any loss_type (weighted_ce always has them)")
    label_smoothing: float = scheduled(0.05, "label smoothing at the start", **SHARE)
    focal_gamma: float = option(
        1.5,
        "exponent of focal loss and of the tail's",
        acts=lambda c: c.loss_type == "focal" or _in_some_epoch(lambda phase: phase.tail_focal)(c),
        at_least=0,
    )
    balance_sampler: bool | Auto = scheduled(
        "auto",
        "draw images by 1 / n_c^sampler_power until disable_sampler_epoch; auto = unless loss_type or use_class_weights corrects already",
    )
    sampler_power: float = option(
        0.5,
        "exponent of the balanced draws: 0 = natural, 1 = every class equally often",
        acts=_in_some_epoch(lambda phase: phase.balanced and not phase.retrained),
        at_least=0,
    )
    mixup_alpha: float = scheduled(0.4, "mixup's Beta parameter at the start; 0 = no mixup", at_least=0)
    mixup_prob: float = option(
        0.7, "chance that a batch without cutmix is mixed up", acts=_in_some_epoch(lambda phase: phase.mixup_alpha), **SHARE
    )
    cutmix_alpha: float = scheduled(0.6, "cutmix's Beta parameter at the start; 0 = no cutmix", at_least=0)
    cutmix_prob: float = option(0.5, "chance that a batch is cut and mixed", acts=_in_some_epoch(lambda phase: phase.cutmix_alpha), **SHARE)


@dataclass(frozen=True)
class LongtailSchedule:
    """Which epoch changes what; -1 = never, auto = as in the recipe. `core/training/timeline.py` is the schedule."""

    stage2_epoch: int | Auto = of_recipe("stage2_epoch", "last stage of the backbone trains too, lr x1.2", **EPOCH)
    stage3_epoch: int | Auto = of_recipe("stage3_epoch", "the whole backbone trains", **EPOCH)
    lr_restart_epoch: int | Auto = of_recipe("lr_restart_epoch", "lr x0.4", **EPOCH)
    mixup_decay_epoch1: int | Auto = of_recipe("mixup_decay_epoch1", "mixup's alpha halves", **EPOCH)
    mixup_decay_epoch2: int | Auto = of_recipe("mixup_decay_epoch2", "mixup's alpha is a quarter", **EPOCH)
    mixup_disable_epoch: int | Auto = of_recipe("mixup_disable_epoch", "no mixup", **EPOCH)
    cutmix_disable_epoch: int | Auto = of_recipe("cutmix_disable_epoch", "no cutmix", **EPOCH)
    smoothing_decay_epoch1: int | Auto = of_recipe("smoothing_decay_epoch1", "label smoothing x0.4", **EPOCH)
    smoothing_decay_epoch2: int | Auto = of_recipe("smoothing_decay_epoch2", "no label smoothing", **EPOCH)
    disable_sampler_epoch: int = scheduled(-1, "plain shuffle instead of balanced draws (older recipe 15)", **EPOCH)
    tail_focal_epoch: int = scheduled(-1, "focal loss for the rarest 25 % of the classes (older recipe 18)", **EPOCH)
    progressive_resize_epoch: int | Auto = of_recipe("progressive_resize_epoch", "progressive_image_size, for validation too", **EPOCH)
    progressive_image_size: int | Auto = scheduled(
        "auto",
        f"side of the crop from progressive_resize_epoch on; auto = image_size where that is given, else {timeline.RECIPE_SIZES[1]}",
        above=0,
    )
    center_update_epoch: int | Auto = of_recipe("center_update_epoch", "cosine head and center loss, where enabled", **EPOCH)
    final_clean_epoch: int | Auto = of_recipe("final_clean_epoch", "light augmentation", **EPOCH)
    drw_epoch: int | Auto = of_recipe("drw_epoch", "ldam_drw: class weights of effective numbers", **EPOCH)
    crt_epoch: int | Auto = of_recipe(
        "crt_epoch", "crt: a new classifier on balanced draws, the backbone frozen, lr from the start; leaves 2 epochs or more", **EPOCH
    )
    schedule_epochs: int | Auto = scheduled(
        "auto",
        "all epoch options are of a training of this many epochs and are scaled to `epochs`; auto = the recipe's are scaled, those that "
        "are given are as they are; 0 = none is scaled",
        at_least=0,
    )

    def implied(self) -> dict[str, Any]:
        """Return what the options that act through the timeline come to: what every epoch is like, and its learning rate."""
        return {"timeline": [[dataclasses.asdict(phase), timeline.lr_at(self, epoch)] for epoch, phase in enumerate(_phases(self))]}


@dataclass(frozen=True)
class LongtailTrainConfig(LongtailSchedule, LongtailLoss, LongtailOptimiser, LongtailModel, LongtailMachine, LongtailImages, ConfigFile):
    """Train a classifier on classes of very different sizes, on a schedule, to a registered best model."""

    select_by: Literal["balanced_accuracy", "accuracy", "macro_f1", "tail_accuracy", "last"] = option(
        "balanced_accuracy", "validation metric that chooses the best epoch (and tau); last = the last epoch"
    )
    save_best_thresh: float = option(-1.0, "a best checkpoint is kept only above this selection score")
    early_stopping_patience: int = option(0, "end after this many epochs without a better selection score; 0 = never", at_least=0)
    save_freq: int = machine(0, "keep a checkpoint every so many epochs besides last and best; 0 = none", at_least=0)
    keep_checkpoints: Kept = machine("needed", KEPT)
    log_interval: int = machine(10, "losses of every so many batches are logged as step/*; 0 = none", at_least=0)
    resume: str = place("", "checkpoint (file, folder or URI) to continue from", "checkpoint")
    linear_probe: bool = option(False, "also fit logistic regression to the pretrained network's features: the reference line, probe/*")
    register: bool = machine(True, "register the best model")


@dataclass(frozen=True)
class LongtailEvaluateConfig(LongtailMachine, LongtailData):
    """Evaluate a checkpoint of train_longtail on a part of its data, or of other data with the same classes, with pictures."""

    checkpoint: str = place("", "checkpoint (file, folder, run or URI) that train_longtail wrote", "checkpoint")
    part: Literal["test", "val", "train"] = option("test", "which images")
    weights: str = place("", "local .safetensors of the backbone, when it is no longer where the training found it", "weights")
    seed: int = option(42, "seed of the confidence intervals", **SEED)
    worst: int = option(24, "how many of the most confident mistakes are shown", at_least=0)
