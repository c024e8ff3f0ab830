"""The losses of the label in long-tail training, one row each; known without torch, so that `--help` and a wrong name need none.

A row says by whose formula the loss is computed (`module:function` below core/losses) and what follows from it elsewhere: the draws, the
head, the schedule and what a study may choose from.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

LossType = Literal["ce", "weighted_ce", "focal", "balanced_softmax", "logit_adjustment", "ldam_drw", "crt"]


@dataclass(frozen=True)
class Kind:
    """One loss.

    Attributes:
        corrects: it answers the classes' sizes itself, so that `balance_sampler = auto` draws each image once.
        prior: changes logits by the counts of what is drawn: `(logits (B, C), counts (C,)) -> logits`; '' = it does not.
        margins: changes logits of a cosine head: `(logits, targets (B, C), counts of all training images) -> logits`; '' = it does not.
        loss: `(logits, targets, class weights (C,) or None, focal exponents (C,) or None) -> scalar`, a mean over the batch.
        weighted, focal: class weights act in it, and `focal_gamma` for every class.
        from_epoch: the option from whose epoch on it differs from `ce`; '' = from the start.
    """

    corrects: bool = True
    prior: str = ""
    margins: str = ""
    loss: str = "soft_cross_entropy:soft_cross_entropy"
    weighted: bool = False
    focal: bool = False
    from_epoch: str = ""


LOSSES: dict[LossType, Kind] = {
    "ce": Kind(corrects=False),
    "weighted_ce": Kind(weighted=True),
    "focal": Kind(corrects=False, focal=True),
    "balanced_softmax": Kind(prior="balanced_softmax:balanced_softmax"),
    "logit_adjustment": Kind(),  # ce; what corrects is chosen after the training (core/losses/logit_adjustment.py)
    "ldam_drw": Kind(margins="ldam:ldam_logits", from_epoch="drw_epoch"),
    "crt": Kind(from_epoch="crt_epoch"),
}


def function(reference: str) -> Callable[..., Any]:
    """Return the function that a row's `module:function` names."""
    module, name = reference.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"core.losses.{module}"), name)
    return found
