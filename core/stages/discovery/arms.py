"""The arms of a table: ways to train the same images for the same epochs, and one of them as a resumable stage of stages."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from core.config import option
from core.errors import UserError, nearest
from core.evaluation.discovery import BY_CLASSIFIER
from core.stages import after, execute, keys
from core.stages.discovery import materials
from core.stages.discovery.config import PipelineConfig
from core.stages.discovery.pipeline import Pipeline, server_of_stages
from core.stages.server import StageServer
from core.stages.stage import Stage
from core.tracking import stage as stages
from core.tracking.recorder import Recorder
from core.tracking.store import scratch
from core.training import precision, recipes


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        says: what it is, for a table's legend.
        options: of the training, over those of the command.
        pseudo: trained with pseudo labels after the warm-up.
        oracle: it sees true classes that discovery does not have.
        answers: by what its figures are given, as a prefix of metrics; several are several rows.
    """

    says: str
    options: Mapping[str, Any] = field(default_factory=dict)
    pseudo: bool = False
    oracle: bool = False
    answers: tuple[str, ...] = ("",)


# SimGCD's published weights (Wen et al. 2023, section 4.1); optimiser, backbone and views are the command's, as for every arm.
SIMGCD = {"objective": "both", "sup_con_weight": 0.35, "temperature": 1.0, "entropy_weight": 2.0, "teacher_temperature": 0.04}
BOTH = ("", BY_CLASSIFIER)
FROZEN = "frozen"
ARMS: dict[str, Arm] = {
    FROZEN: Arm("the pretrained features as they are", {"objective": "contrast"}),
    "contrast": Arm("the two contrastive losses", {"objective": "contrast"}),
    "contrast+pseudo": Arm("and pseudo labels after the warm-up", {"objective": "contrast"}, pseudo=True),
    "classifier": Arm("a cosine classifier instead of the contrast", {"objective": "classifier"}, answers=BOTH),
    "both": Arm("contrast and classifier", {"objective": "both"}, answers=BOTH),
    "both+pseudo": Arm("and pseudo labels after the warm-up", {"objective": "both"}, pseudo=True, answers=BOTH),
    "simgcd": Arm("SimGCD's losses and weights", SIMGCD, answers=(BY_CLASSIFIER,)),
    "ceiling": Arm(
        "cross-entropy on all true labels",
        {"objective": "classifier", "labels": "all", "sup_con_weight": 1.0},
        oracle=True,
        answers=(BY_CLASSIFIER,),
    ),
}


@dataclass(frozen=True)
class ArmConfig(PipelineConfig):
    """Train one arm of a table on one set of images with one seed."""

    arm: str = option("contrast", "its name")
    labels: Literal["given", "all"] = option("given", "all = with every true class, novel ones too (tagged oracle)")


ARM = Stage("superclass_arm", ArmConfig, "core.stages.execute:perform", begin="core.stages.discovery.arms:begin")


def named(arms: str) -> list[str]:
    """Return the arms of a comma-separated list, in the table's order; UserError for others."""
    asked = [name.strip() for name in arms.split(",") if name.strip()]
    for name in asked:
        if name not in ARMS:
            raise UserError(f"arms = '{arms}': there is no '{name}'{nearest(name, ARMS)} (choose from: {', '.join(ARMS)})")
    if not asked:
        raise UserError(f"arms = '{arms}' names none; choose from {', '.join(ARMS)}")
    return [name for name in ARMS if name in asked]


@cache
def _server() -> StageServer:
    return server_of_stages()


def begin(config: ArmConfig) -> execute.Job:
    """Read the images of a resolved and checked configuration; the key of the arm says whether it has been trained before."""
    loaded = materials.posed(config)
    device = precision.pick_device(config.gpu)
    number_format = precision.resolve_precision(config.precision, device)
    key = keys.of_stage(ARM.name, config, materials.digests(loaded), device, number_format)

    def work(run: Recorder, _unfinished: after.Unfinished | None) -> dict[str, Any]:
        arm = ARMS[config.arm]
        pipeline = Pipeline(config, run, (recipes.settled(config.total_epochs),), _server(), loaded)
        pipeline.warm_up()
        if arm.pseudo:
            pipeline.train_with_pseudo_labels()
            last = pipeline.trainings[-1]
        else:
            last = pipeline.train_without(curves=True)
        summary = {
            "arm": config.arm,
            "epoch": last.summary["epoch"],
            "metrics": last.summary["metrics"],
            "history": last.summary["history"],
        }
        run.tags({"taxon.arm": config.arm, "taxon.select_by": "oracle" if arm.oracle else config.select_by})
        folder = scratch("arm")
        try:
            stages.publish(run, folder, summary)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        pipeline.lighten()
        return summary

    return execute.Job(key, work)
