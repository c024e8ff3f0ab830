"""What `tune_longtail` searches: learning rate, weight decay, loss, mixup and moving average of the long-tail training.

It replaces tuning by hand, so there is no older grid. Images are read and resized once a study.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from core.data.classification import ClassificationData
from core.errors import UserError
from core.losses.label import LOSSES, LossType
from core.stages import keys
from core.stages.execute import Job
from core.stages.longtail import checks, materials
from core.stages.longtail.config import LongtailImages, LongtailTrainConfig
from core.stages.longtail.stages import TRAIN_LONGTAIL
from core.stages.longtail.train import LongtailTraining
from core.stages.longtail.train import prepare as prepare_training
from core.tracking.recorder import Recorder
from core.training import timeline
from tuning import light
from tuning.config import TuneLongtailConfig
from tuning.runner import Plan, plan, run_studies
from tuning.space import Choice, Parameters, Range, Space

REFUSED = {"multitask": ("ldam_drw",), "fewshot": ("crt",)}
IDLE: dict[str, Any] = {"register": False, "save_freq": 0, "log_interval": 0, "linear_probe": False}  # nobody looks at these of a trial
METRICS = ("balanced_accuracy", "accuracy", "macro_f1", "tail_accuracy")


def _load(config: LongtailTrainConfig) -> tuple[ClassificationData, dict[tuple[str, int], Any]]:
    return materials.load_data(config), {}


data = light.Shared(_load, light.names_of(LongtailImages))


def ranges(config: LongtailTrainConfig) -> Parameters:
    """Return what is always searched; a loss that acts from an epoch on is among the losses where that epoch is trained."""
    searched: dict[str, Range | Choice] = {
        "lr": Range(5e-5, 5e-3, log=True),
        "weight_decay": Range(1e-6, 1e-1, log=True),
        "loss_type": Choice(tuple(loss for loss in LOSSES if _acts(loss, config))),
        "use_ema": Choice((False, True)),
    }
    if config.mixup_prob and timeline.settled(config).mixup_disable_epoch:
        searched["mixup_alpha"] = Range(0.0, 0.8)
    return searched


def also(config: LongtailTrainConfig) -> Parameters:
    """Return what the option `also` may name."""
    return {
        "label_smoothing": Range(0.0, 0.2),
        "sampler_power": Range(0.0, 1.0),
        "cutmix_alpha": Range(0.0, 1.0),
        "batch_size": Choice((16, 32, 64, 128)),
        "optimizer": Choice(("adamw", "adam", "sgd")),
        **({"fewshot_dropout": Range(0.0, 0.7)} if config.model_type == "fewshot" else {"dropout": Range(0.0, 0.6)}),
    }


def _acts(loss: LossType, config: LongtailTrainConfig) -> bool:
    since = LOSSES[loss].from_epoch
    if not since:
        return True
    if loss == "crt" and config.epochs - timeline.retrained_from(replace(config, loss_type=loss)) < timeline.FEWEST_RETRAINED:
        return False
    late = {said.split()[0] for said in timeline.beyond(replace(config, loss_type=loss))}
    return getattr(config, since) != timeline.NEVER and since not in late and loss not in REFUSED.get(config.model_type, ())


def prepare(config: LongtailTrainConfig) -> LongtailTrainConfig:
    """Check."""
    checks.refuse(config)
    config = checks.present_names(config)
    return config


def read(config: LongtailTrainConfig) -> dict[str, str]:
    """Return the digests of all that trials read."""
    found = {"data": data.read(config)[0].digest}
    return found | keys.digests(config, found)


def begin(config: LongtailTrainConfig) -> Job:
    """Prepare a trial."""
    prepared = prepare_training(replace(config, **IDLE), *data.of(config))
    return Job("", lambda run, _unfinished: light.train(LongtailTraining(prepared, run)))


SPACE = Space(
    name="longtail",
    stage=replace(TRAIN_LONGTAIL, begin="tuning.longtail:begin"),
    ranges=ranges,
    also=also,
    grid={},
    metrics={name: light.metric(name) for name in METRICS},
    prepare=prepare,
    inputs=read,
)


def run(config: TuneLongtailConfig, run: Recorder) -> dict[str, Any]:
    """Run `tune_longtail`."""
    return run_studies([study(config)], run)


def study(config: TuneLongtailConfig) -> Plan:
    """Return the command's study, checked before it starts."""
    where = config.data_root or config.train_dir or config.train_meta
    checked = plan(SPACE, config, Path(where).expanduser().resolve().name or "images")
    images = data.of(checked.base)[0]
    materials.require_validation(checked.base, images)
    if not len(images.val):
        raise UserError("trials are compared on validation images, but there are none; give val_dir or val_meta, or a val_share")
    return checked
