"""What `tune_clip` searches: learning rate, weight decay, temperature, sampling and the weights of SuperCLIP's two losses.

It replaces configurations written by hand, so there is no older grid. Images are read and resized once a study; what a frozen tower
gives is computed once and kept on disk. Trials share one split: folds are for train_clip with the configuration that won.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from core import digest
from core.errors import UserError
from core.stages import keys
from core.stages.clip import checks, folds
from core.stages.clip import data as images
from core.stages.clip.config import ClipData, TrainClipConfig
from core.stages.clip.stages import TRAIN_CLIP
from core.stages.clip.train import ClipTraining, announce
from core.stages.clip.train import prepare as prepare_training
from core.stages.execute import Job
from core.tracking.recorder import Recorder
from tuning import light
from tuning.config import TuneClipConfig
from tuning.runner import Plan, plan, run_studies
from tuning.space import Choice, Parameters, Range, Space

# Nobody looks at these of a trial.
IDLE: dict[str, Any] = {
    "register": False,
    "save_freq": 0,
    "log_interval": 0,
    "zero_shot": False,
    "linear_probe": False,
    "few_shot": False,
    "wise_ft": False,
}
METRICS = ("balanced_accuracy", "accuracy", "macro_f1", "mAP")

pool = light.Shared(images.load, light.names_of(ClipData))


def ranges(config: TrainClipConfig) -> Parameters:
    """Return what is always searched; the two weights act only in SuperCLIP's loss."""
    searched: dict[str, Range | Choice] = {
        "learning_rate": Range(1e-5, 1e-2, log=True),
        "weight_decay": Range(1e-4, 3e-1, log=True),
        "temperature": Range(0.01, 0.2, log=True),
        "use_weighted_sampling": Choice((False, True)),
    }
    if config.use_superclip_loss:
        searched |= {"class_loss_weight": Range(0.5, 2.0), "contrastive_loss_weight": Range(0.5, 2.0)}
    return searched


def also(config: TrainClipConfig) -> Parameters:
    """Return what the option `also` may name."""
    more: dict[str, Range | Choice] = {
        "weight_method": Choice(("inverse_freq", "sqrt_inverse", "effective_num")),
        "weight_smooth_factor": Range(0.0, 1.0),
        "batch_size": Choice((16, 32, 64, 128)),
    }
    if config.word_supervision:
        more["word_supervision_weight"] = Range(0.1, 2.0)
    if config.view_cache or not config.lock_image:
        more["augmentation"] = Choice(("none", "light", "standard", "strong"))
    return more


def prepare(config: TrainClipConfig) -> TrainClipConfig:
    """Check."""
    return checks.check_training(config)


def read(config: TrainClipConfig) -> dict[str, str]:
    """Return the digests of all that trials read."""
    found = pool.read(config)
    rows = folds.parts(found, config)
    if not len(rows["val"]):
        raise UserError("trials are compared on validation images, but there are none; raise val_fraction")
    read = {"data": found.digest, "split": digest.of_json([digest.of_array(rows[part]) for part in images.PARTS])}
    return read | keys.digests(config, read)


def begin(config: TrainClipConfig) -> Job:
    """Prepare a trial."""
    prepared = prepare_training(replace(config, **IDLE), pool.of(config))

    def work(run: Recorder, _unfinished: Any) -> dict[str, Any]:
        training = ClipTraining(prepared, run)
        announce(prepared, run)
        return light.train(training)

    return Job("", work)


SPACE = Space(
    name="clip",
    stage=replace(TRAIN_CLIP, begin="tuning.clip:begin"),
    ranges=ranges,
    also=also,
    grid={},
    metrics={name: light.metric(name) for name in METRICS},
    prepare=prepare,
    inputs=read,
    by_hand="configurations written by hand",
)


def run(config: TuneClipConfig, run: Recorder) -> dict[str, Any]:
    """Run `tune_clip`."""
    return run_studies([study(config)], run)


def study(config: TuneClipConfig) -> Plan:
    """Return the command's study, checked before it starts."""
    if config.use_cv or config.fold:
        raise UserError("use_cv and fold: trials share one split; leave them out here and give them to train_clip with best.json")
    return plan(SPACE, config, Path(config.data_dir).expanduser().resolve().name or "images")
