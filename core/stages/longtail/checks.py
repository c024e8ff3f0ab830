"""Mistakes in long-tail options that no type can catch, found before anything is read or computed."""

from __future__ import annotations

import dataclasses
import sys

from core.config import check_limits
from core.data import longtail
from core.errors import UserError
from core.stages.longtail.config import LongtailTrainConfig
from core.training import timeline


def check_training(config: LongtailTrainConfig) -> LongtailTrainConfig:
    """Return the configuration in the options' present names, or raise UserError naming option, value and remedy.

    Says what an older name means and which epoch options never act.
    """
    refuse(config)
    if config.loss_type == "multitask":
        print("taxon: loss_type = multitask is the older name of model_type = multitask with loss_type = ce", file=sys.stderr)
        config = present_names(config)
    late = timeline.beyond(config)
    if late:
        print(f"taxon: never reached in {config.epochs} epochs: {', '.join(late)}", file=sys.stderr)
    for line in double_corrections(config):
        print(f"taxon: {line}", file=sys.stderr)
    return config


def double_corrections(config: LongtailTrainConfig) -> list[str]:
    """Return one line where the classes' sizes are corrected for more than once, which only happens when it is asked for."""
    weighted = config.use_class_weights and config.loss_type != "weighted_ce"
    found = {
        "balance_sampler = true": timeline.phase_at(config, 0).balanced and config.sampler_power > 0 and config.balance_sampler != "auto",
        "use_class_weights = true": weighted,
        f"loss_type = {config.loss_type}": config.loss_type in timeline.CORRECTING,
    }
    given = [name for name, acts in found.items() if acts]
    if len(given) < 2:
        return []
    fitted = given == ["balance_sampler = true", "loss_type = balanced_softmax"]
    how = "the loss corrects only for what the draws leave" if fitted else "together they overdo it"
    return [f"{' and '.join(given)} each correct for the classes' sizes: {how}; one of them is enough"]


def present_names(config: LongtailTrainConfig) -> LongtailTrainConfig:
    """Return the configuration with loss_type = multitask, the older tool's, as model_type; UserError beside another model_type."""
    if config.loss_type != "multitask":
        return config
    if config.model_type == "fewshot":
        raise UserError("loss_type = multitask means model_type = multitask, but model_type = fewshot is given; drop one of the two")
    return dataclasses.replace(config, model_type="multitask", loss_type="ce")


def refuse_given(config: LongtailTrainConfig) -> None:
    """Raise UserError for what can be refused before torch is imported: options, and images that are not there."""
    refuse(config)
    longtail.places(config)


def refuse(config: LongtailTrainConfig) -> None:
    """Raise UserError naming option, value and remedy."""
    _check_contradictions(check_limits(present_names(config)))


def _check_contradictions(config: LongtailTrainConfig) -> None:
    if config.use_cosine_classifier and config.model_type == "multitask":
        raise UserError("use_cosine_classifier = true does not go with model_type = multitask; use baseline or fewshot")
    if config.loss_type == "crt" and config.model_type == "fewshot":
        raise UserError("loss_type = crt trains a linear classifier anew, which model_type = fewshot does not have; use baseline")
    if config.loss_type == "ldam_drw" and config.model_type == "multitask":
        raise UserError("loss_type = ldam_drw needs a cosine classifier, which model_type = multitask does not have; use baseline")
    if config.loss_type == "crt" and config.crt_epoch == timeline.NEVER:
        raise UserError("loss_type = crt with crt_epoch = -1 never trains the new classifier; give an epoch, or use loss_type = ce")
    left = config.epochs - timeline.retrained_from(config)
    if config.loss_type == "crt" and left < timeline.FEWEST_RETRAINED:
        epoch, of = timeline.unscaled("crt_epoch", config), timeline.scaled_from("crt_epoch", config)
        raise UserError(
            f"crt_epoch = {epoch}{f' (of {of}, scaled to {config.epochs} epochs)' if of else ''} leaves {left} of {config.epochs} epochs "
            f"for the new classifier, which needs at least {timeline.FEWEST_RETRAINED}; give an earlier crt_epoch, more epochs, or "
            "schedule_epochs"
        )
    for name in ("use_cosine_classifier", "use_center_loss"):
        if getattr(config, name) and config.center_update_epoch == timeline.NEVER:
            raise UserError(f"{name} = true acts from center_update_epoch on, which is -1 (never); give an epoch")
    if config.weights and not config.pretrained:
        raise UserError("weights are given, but pretrained = false says to start from scratch; drop one of the two")
