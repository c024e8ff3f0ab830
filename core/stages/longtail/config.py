"""The typed configuration of long-tail training and evaluation; names and defaults are those of the older tool where it had them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

from core.config import Auto, ConfigFile, option, place
from core.training import timeline

scheduled = partial(option, acts=lambda config: False)
"""Declares an option that acts through the timeline alone: what the epochs then are like is in the stage key instead of it."""


@lru_cache(maxsize=8)
def _phases(config: Any) -> tuple[timeline.Phase, ...]:
    return tuple(timeline.phase_at(config, epoch) for epoch in range(config.epochs))


def _in_some_epoch(holds: Callable[[timeline.Phase], Any]) -> Callable[[Any], bool]:
    """Return what says of a configuration whether something holds in one of its epochs."""
    return lambda config: any(holds(phase) for phase in _phases(config))


LOSSES = ("ce", "weighted_ce", "focal", "balanced_softmax", "logit_adjustment", "ldam_drw", "crt")


@dataclass(frozen=True)
class LongtailData:
    """Which images: class folders, or metadata tables that `prepare_longtail` (or a hand) wrote."""

    data_root: str = place("", "folder with train/, val/ and test/ class folders: what *_dir leave open is taken from it")
    train_dir: str = place("", "class folders of training images; with train_meta the folder its paths start from")
    val_dir: str = place("", "the same for validation")
    test_dir: str = place("", "the same for testing; empty = no test part")
    train_meta: str = place("", "metadata CSV of the training images (needs image_path and label_61 or label)")
    val_meta: str = place("", "metadata CSV of the validation images")
    test_meta: str = place("", "metadata CSV of the test images")
    class_weights: str = place("", "CSV of class weights; empty = N / (C * n_c) of the training images")


@dataclass(frozen=True)
class LongtailMachine:
    """How the machine is used."""

    num_workers: int = option(4, "threads that read and augment images; at most 4 are used", affects_result=False)
    gpu: str = option("auto", "auto (CUDA, MPS, CPU in this order), cpu, mps, or a CUDA index", affects_result=False)
    threads: int = option(0, "CPU threads of a process's computations; 0 = all usable cores", affects_result=False)
    use_amp: bool = option(True, "bf16 where the device is fast in it, else fp16 with loss scaling on CUDA, else fp32")


@dataclass(frozen=True)
class LongtailModel:
    """Backbone and heads."""

    model_type: Literal["baseline", "multitask", "fewshot"] = option(
        "baseline", "one head; heads for label, crop, disease and severity; or a frozen backbone with a hidden layer"
    )
    backbone: str = option("resnet50", "any timm model, or small_cnn")
    pretrained: bool = option(True, "start from pretrained weights")
    weights: str = place("", "local .safetensors with the backbone's weights; empty = download them where pretrained", "weights")
    dropout: float = option(0.3, "dropout before the heads")
    image_size: int = option(224, "side of the square crop in pixels")
    use_cosine_classifier: bool = scheduled(False, "cosine head from center_update_epoch on, made from the linear one")
    use_center_loss: bool = scheduled(False, "center loss from center_update_epoch on")
    center_loss_weight: float = option(
        0.01,
        "weight of the center loss, which is of features of length 1: 0..4 on any backbone",
        acts=_in_some_epoch(lambda phase: phase.center),
    )
    fewshot_freeze_backbone: bool = option(True, "fewshot: the backbone never trains", acts=lambda c: c.model_type == "fewshot")
    fewshot_hidden: int = option(512, "fewshot: width of the hidden layer", acts=lambda c: c.model_type == "fewshot")
    fewshot_dropout: float = option(0.5, "fewshot: dropout after the hidden layer", acts=lambda c: c.model_type == "fewshot")
    fewshot_head_lr_scale: float = option(5.0, "fewshot: the head's learning rate over lr", acts=lambda c: c.model_type == "fewshot")


@dataclass(frozen=True)
class LongtailOptimiser:
    """Optimiser and learning rate."""

    epochs: int = option(50, "epochs")
    batch_size: int = option(32, "global batch size, over all processes")
    lr: float = option(0.0005, "learning rate after the warm-up")
    weight_decay: float = option(0.0001, "weight decay of matrices and kernels; biases and norms have none")
    optimizer: Literal["adamw", "adam", "sgd"] = option("adamw", "optimiser")
    momentum: float = option(0.9, "momentum of sgd", acts=lambda c: c.optimizer == "sgd")
    scheduler: Literal["cosine", "step", "none"] = scheduled(
        "cosine", "learning rate after the warm-up: cosine to 1e-6, a tenth each third, flat"
    )
    warmup_epochs: int = scheduled(5, "epochs of linear warm-up from 0.02 * lr")
    accumulation_steps: int = option(1, "batches whose gradients make one optimiser step")
    clip_norm: float = option(1.0, "largest gradient norm; 0 = any")
    use_ema: bool = option(False, "score, save and register the moving average of the weights")
    ema_decay: float = option(0.999, "decay of the moving average a step, at step n at most (1 + n) / (10 + n)", acts=lambda c: c.use_ema)
    seed: int = option(42, "seed of initialisation, sampling, augmentation and mixing")


@dataclass(frozen=True)
class LongtailLoss:
    """Loss, sampling, mixing; the defaults are what won on validation (README), not the older tool's weighted cross-entropy."""

    loss_type: Literal["ce", "weighted_ce", "focal", "balanced_softmax", "logit_adjustment", "ldam_drw", "crt", "multitask"] = option(
        "ce",
        "loss of the label: logit_adjustment = ce, then tau chosen on validation; ldam_drw = margins, re-weighted from drw_epoch; "
        "crt = ce, then a new classifier on balanced draws from crt_epoch; multitask = older name of model_type = multitask with ce",
    )
    use_class_weights: bool = option(False, "class weights in any loss_type (weighted_ce always has them)")
    label_smoothing: float = scheduled(0.05, "label smoothing at the start")
    focal_gamma: float = option(
        1.5,
        "exponent of focal loss and of the tail's",
        acts=lambda c: c.loss_type == "focal" or _in_some_epoch(lambda phase: phase.tail_focal)(c),
    )
    balance_sampler: bool | Auto = scheduled(
        "auto",
        "draw images by 1 / n_c^sampler_power until disable_sampler_epoch; auto = unless loss_type or use_class_weights corrects already",
    )
    sampler_power: float = option(
        0.5,
        "exponent of the balanced draws: 0 = natural, 1 = every class equally often",
        acts=_in_some_epoch(lambda phase: phase.balanced and not phase.retrained),
    )
    mixup_alpha: float = scheduled(0.4, "mixup's Beta parameter at the start; 0 = no mixup")
    mixup_prob: float = option(0.7, "chance that a batch without cutmix is mixed up", acts=_in_some_epoch(lambda phase: phase.mixup_alpha))
    cutmix_alpha: float = scheduled(0.6, "cutmix's Beta parameter at the start; 0 = no cutmix")
    cutmix_prob: float = option(0.5, "chance that a batch is cut and mixed", acts=_in_some_epoch(lambda phase: phase.cutmix_alpha))


@dataclass(frozen=True)
class LongtailSchedule:
    """Which epoch changes what; -1 = never. `core/training/timeline.py` is the schedule."""

    stage2_epoch: int = scheduled(10, "last stage of the backbone trains too, lr x1.2")
    stage3_epoch: int = scheduled(20, "the whole backbone trains")
    lr_restart_epoch: int = scheduled(25, "lr x0.4")
    mixup_decay_epoch1: int = scheduled(10, "mixup's alpha halves")
    mixup_decay_epoch2: int = scheduled(12, "mixup's alpha is a quarter")
    mixup_disable_epoch: int = scheduled(15, "no mixup")
    cutmix_disable_epoch: int = scheduled(10, "no cutmix")
    smoothing_decay_epoch1: int = scheduled(12, "label smoothing x0.4")
    smoothing_decay_epoch2: int = scheduled(18, "no label smoothing")
    disable_sampler_epoch: int = scheduled(-1, "plain shuffle instead of balanced draws (older recipe 15)")
    tail_focal_epoch: int = scheduled(-1, "focal loss for the rarest 25 % of the classes (older recipe 18)")
    progressive_resize_epoch: int = scheduled(30, "progressive_image_size, for validation too")
    progressive_image_size: int = scheduled(256, "side of the crop from progressive_resize_epoch on")
    center_update_epoch: int = scheduled(35, "cosine head and center loss, where enabled")
    final_clean_epoch: int = scheduled(40, "light augmentation")
    drw_epoch: int = scheduled(40, "ldam_drw: class weights of effective numbers")
    crt_epoch: int = scheduled(
        40, "crt: a new classifier on balanced draws, the backbone frozen, lr from the start; leaves 2 epochs or more"
    )
    schedule_epochs: int = scheduled(0, "the epoch options are meant for this many epochs and are scaled to `epochs`; 0 = as they are")

    def implied(self) -> dict[str, Any]:
        """Return what the options that act through the timeline come to: what every epoch is like, and its learning rate."""
        return {"timeline": [[dataclasses.asdict(phase), timeline.lr_at(self, epoch)] for epoch, phase in enumerate(_phases(self))]}


@dataclass(frozen=True)
class LongtailTrainConfig(LongtailSchedule, LongtailLoss, LongtailOptimiser, LongtailModel, LongtailMachine, LongtailData, ConfigFile):
    """Train a classifier on classes of very different sizes, on a schedule, to a registered best model."""

    select_by: Literal["balanced_accuracy", "accuracy", "macro_f1", "tail_accuracy", "last"] = option(
        "balanced_accuracy", "validation metric that chooses the best epoch (and tau); last = the last epoch"
    )
    save_best_thresh: float = option(-1.0, "a best checkpoint is kept only above this selection score")
    early_stopping_patience: int = option(0, "end after this many epochs without a better selection score; 0 = never")
    save_freq: int = option(5, "keep a checkpoint every so many epochs besides last and best; 0 = none", affects_result=False)
    log_interval: int = option(10, "losses of every so many batches are logged as step/*; 0 = none", affects_result=False)
    resume: str = place("", "checkpoint (file, folder or URI) to continue from", "checkpoint")
    linear_probe: bool = option(False, "also fit logistic regression to the pretrained network's features: the reference line, probe/*")
    register: bool = option(True, "register the best model", affects_result=False)


@dataclass(frozen=True)
class LongtailEvaluateConfig(LongtailMachine, LongtailData):
    """Evaluate a checkpoint of train_longtail on a part of its data, or of other data with the same classes, with pictures."""

    checkpoint: str = place("", "checkpoint (file, folder, run or URI) that train_longtail wrote", "checkpoint")
    part: Literal["test", "val", "train"] = option("test", "which images")
    weights: str = place("", "local .safetensors of the backbone, when it is no longer where the training found it", "weights")
    seed: int = option(42, "seed of the confidence intervals")
    worst: int = option(24, "how many of the most confident mistakes are shown")
