"""The options of `superclass_table`."""

from __future__ import annotations

from dataclasses import dataclass

from core.config import Auto, machine, option
from core.stages.discovery.config import (
    ClusterOptions,
    CountOptions,
    DataOptions,
    LossOptions,
    MachineOptions,
    ModelOptions,
    PseudoOptions,
)
from core.stages.kept import KEPT, Kept


@dataclass(frozen=True)
class SuperclassTableConfig(CountOptions, ClusterOptions, PseudoOptions, LossOptions, ModelOptions, MachineOptions, DataOptions):
    """Train every arm on every superclass with every seed, a child run each, and draw one table and one figure of paired differences."""

    superclasses: str = option("", "comma-separated; empty = those with novel classes and at most 10 classes (CIFAR-100)")
    chosen_on: str = option(
        "furniture,fruits_vegetables,electronic_devices", "superclasses that served for choosing the recipe: they stand apart, in no mean"
    )
    seeds: str = option("1,2,3", "comma-separated; all superclasses with the first seed come first")
    arms: str = option(
        "frozen,contrast,contrast+pseudo,classifier,both,both+pseudo,simgcd,ceiling",
        "comma-separated: frozen, contrast, contrast+pseudo, classifier, both, both+pseudo, simgcd (by its own weights, "
        "whatever is given), ceiling (all true labels, an oracle)",
    )
    against: str = option("contrast", "the arm that the others are compared with, pair by pair")
    stage1_epochs: int | Auto = option(5, "epochs before the first pseudo labels, the same for arms that share them", at_least=1)
    update_interval: int | Auto = option(5, "epochs between refreshes of the pseudo labels", above=0)
    total_epochs: int | Auto = option(15, "epochs of every arm")
    save_ckpt_every: int = machine(0, "keep a checkpoint every so many epochs besides last and best; 0 = none", at_least=0)
    keep_checkpoints: Kept = machine("needed", KEPT)
