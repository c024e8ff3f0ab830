"""The options of studies: those that every study has, joined with those of each family's training."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from core.config import SEED, Auto, check_limits, machine, option, place
from core.errors import UserError
from core.stages.clip.config import ClipData, ClipLoss, ClipTowersConfig, ClipTraining
from core.stages.discovery.config import (
    EPOCHS,
    DataOptions,
    EvalOptions,
    HiddenOptions,
    LossOptions,
    MachineOptions,
    ModelOptions,
    PseudoOptions,
)
from core.stages.longtail.config import LongtailImages, LongtailLoss, LongtailMachine, LongtailModel, LongtailOptimiser, LongtailSchedule
from core.stages.posts.config import PostsData, PostsLoss, PostsMachine, PostsModel, PostsOptimiser, PostsTfidf

TRIALS = 20


@dataclass(frozen=True)
class TuneOptions:
    """What is searched, how, and where the study is kept."""

    n_trials: int | Auto = machine("auto", "trials that the study finishes, all workers together; auto = 20, or the whole grid", at_least=1)
    sampler: Literal["tpe", "random", "grid"] = option("tpe", "how values are drawn; grid = exactly the older grid, in a random order")
    sampler_seed: int | Literal["none"] = option(1, "seed of the sampler; tpe and random refuse none", **SEED)
    n_startup_trials: int = option(8, "finished trials before tpe models them and before the median pruner acts", at_least=1)
    pruner: Literal["median", "halving", "none"] = option("median", "when a trial that lags behind ends early")
    pruner_warmup: int = option(3, "epochs that every trial is given before it may be pruned", at_least=0)
    metric: str = option("auto", "what is searched for: one of the family's label-honest selection metrics; auto = the family's own choice")
    bounds: str = option("", "bounds that replace the space's own: name=low:high, comma-separated")
    also: str = option("", "further options to search, comma-separated; --help of the command names them")
    storage: str = machine(
        "", "where studies are kept: postgresql://user@host/db (password: ~/.pgpass), sqlite:///file; empty = in the cache"
    )
    study_name: str = machine("", "name of the study; empty = named after space, options and data, so that the same command continues it")
    timeout: float = machine(0.0, "seconds after which this worker starts no further trial; 0 = none", at_least=0)
    heartbeat: int = machine(60, "seconds between signs of life of a trial; after two missing ones it is taken for dead", at_least=1)
    max_retries: int = machine(3, "how often a trial whose worker died is continued", at_least=0)
    keep_checkpoints: bool = machine(False, "store the checkpoints of every trial, not only its metrics and curves")


@dataclass(frozen=True)
class TuneSuperclassConfig(TuneOptions, HiddenOptions, PseudoOptions, EvalOptions, LossOptions, ModelOptions, MachineOptions, DataOptions):
    """Search lr and sup_con_weight (also: temperature, weight_decay, grad_from_block, pseudo_* options) of train_superclass."""

    superclasses: str = machine("", "superclasses to search on, comma-separated, a study each; empty = all that have novel classes")
    epochs: int | Auto = option("auto", "epochs of a trial, which also span the learning-rate schedule (published 200)", **EPOCHS)
    update_interval: int | Auto = option(
        "auto",
        "epochs between refreshes of the pseudo labels; sets the ramp (published 5)",
        acts=lambda c: c.gamma_ramp == "intervals",
        above=0,
    )
    pseudo_labels_path: str = place("", "pseudo labels (.npz path or URI) that every trial trains with", "pseudo_labels")


@dataclass(frozen=True)
class TuneLongtailConfig(TuneOptions, LongtailSchedule, LongtailLoss, LongtailOptimiser, LongtailModel, LongtailMachine, LongtailImages):
    """Search lr, weight_decay, loss_type, mixup_alpha, use_ema (also: label_smoothing, sampler_power, cutmix_alpha, batch_size,
    optimizer, dropout or fewshot_dropout) of train_longtail."""

    select_by: Literal["balanced_accuracy", "accuracy", "macro_f1", "tail_accuracy", "last"] = option(
        "balanced_accuracy", "validation metric that chooses a trial's epoch (and tau); last = the last epoch"
    )
    early_stopping_patience: int = option(0, "a trial ends after this many epochs without a better selection score; 0 = never", at_least=0)


@dataclass(frozen=True)
class TuneClipConfig(TuneOptions, ClipTraining, ClipLoss, ClipTowersConfig, ClipData):
    """Search learning_rate, weight_decay, temperature, use_weighted_sampling and the weights of SuperCLIP's losses (also:
    weight_method, weight_smooth_factor, batch_size, augmentation, word_supervision_weight) of train_clip, on one split."""

    use_superclip_loss: bool = option(True, "search the weights of both losses too; else train by the contrast alone")
    select_by: Literal["balanced_accuracy", "accuracy", "macro_f1", "mAP", "last"] = option(
        "balanced_accuracy", "validation metric that chooses a trial's epoch; last = the last epoch"
    )


@dataclass(frozen=True)
class TuneOptimizeClipConfig(TuneOptions, PostsTfidf, PostsLoss, PostsOptimiser, PostsModel, PostsMachine, PostsData):
    """Search lr (head_lr with locked towers), batch_size, weight_decay, dropout, head_variant and loss (also: gamma, warmup_ratio,
    use_cosine, logit_adjustment, head_lr, layer_decay) of optimize_clip; with encoder = tfidf its n-grams and strengths."""


def check(options: Any) -> None:
    """Raise UserError for options of a study that cannot be, before anything is opened."""
    check_limits(options)
    if re.search(r"://[^@/]*:.*@|[?&]password=", options.storage):
        raise UserError(
            "storage holds a password, which `mlflow run` would print and keep in the run's parameters; put it into ~/.pgpass or "
            "PGPASSWORD, and change it where it was shown"
        )
    if options.sampler != "grid" and options.sampler_seed == "none":
        raise UserError(f"sampler = {options.sampler} needs a seed, or the study could not be repeated; give sampler_seed, such as 1")
    if options.sampler == "grid":
        for name in ("bounds", "also"):
            if getattr(options, name):
                raise UserError(
                    f"{name} = '{getattr(options, name)}' means nothing to sampler = grid, whose points are fixed; leave it out"
                )
