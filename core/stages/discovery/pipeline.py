"""The three-stage pipeline: warm up, then cluster and train in turn; each stage a process and a child run of its own.

    train 0..s1 -> [cluster e -> train e..e+interval with pseudo labels] until total_epochs -> best model, gallery, registry

A finished stage with the same key is reused, an interrupted training continues from its newest checkpoint: running the same command
again after a crash continues where it stopped.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from core import config as configuration
from core import digest
from core.data.problem import Posed
from core.errors import UserError
from core.evaluation import discovery
from core.stages import execute, kept, keys
from core.stages.discovery import checks, exports, materials, pipeline_report, rebuild, ssddbc
from core.stages.discovery.config import PipelineConfig, SsddbcConfig, TrainConfig
from core.stages.discovery.stages import OFFLINE_SSDDBC_SUPERCLASS, PSEUDO_PIPELINE, TRAIN_SUPERCLASS
from core.stages.server import StageServer
from core.stages.stage import Stage
from core.tracking.recorder import Recorder
from core.tracking.run import reopen, started_with
from core.tracking.stage import Finished
from core.training import precision, recipes
from core.training import state as states

ENTRY_POINT = PSEUDO_PIPELINE.name
TOTALS_TAG = "taxon.total_epochs"


@dataclass(frozen=True)
class Segment:
    """One training segment: from `start` to `stop` finished epochs of a training of `total`."""

    start: int
    stop: int
    total: int


def segments(stage1_epochs: int, update_interval: int, total_epochs: int) -> Iterator[Segment]:
    """Yield the training segments after the warm-up; the last may be short. 5/3/15 gives 5-8, 8-11, 11-14, 14-15."""
    start = stage1_epochs
    while start < total_epochs:
        stop = min(start + update_interval, total_epochs)
        yield Segment(start, stop, total_epochs)
        start = stop


def planned(stage1_epochs: int, update_interval: int, totals: tuple[int, ...]) -> Iterator[Segment]:
    """Yield the segments of a pipeline whose epochs were raised from one of `totals` to the next: those of before stay as they were."""
    for start, total in pairwise((stage1_epochs, *totals)):
        yield from segments(start, update_interval, total)


def run(config: PipelineConfig, run: Recorder) -> dict[str, Any]:
    """Run `pseudo_pipeline` (and `main`, its embedded default)."""
    config, totals = as_started(config) if config.resume_run_id else (config, ())
    config = checks.check_pipeline(recipes.resolve(config))
    run.options(configuration.canonical(config))
    if config.resume_run_id:
        return _continue(config, run, totals)
    return Pipeline(config, run, (recipes.settled(config.total_epochs),)).run()


def as_started(config: PipelineConfig) -> tuple[PipelineConfig, tuple[int, ...]]:
    """Return the options with which `config.resume_run_id` goes on, and how many epochs it had in all, oldest first, the new number last.

    Every option is the run's own; those given override it where they say how many epochs there are in all, where something lies or how
    the machine is used. Any other value than the run's would mix two pipelines' curves.

    Raises:
        UserError: the run is none of this entry point, was started with another value, or has more epochs than are asked for.
    """
    run_id = config.resume_run_id
    params, tags = started_with(run_id, ENTRY_POINT)
    known = {f.name: f for f in dataclasses.fields(config) if f.name != "resume_run_id"}
    own = {name: value for name, value in params.items() if name.removeprefix("resolved.") != "resume_run_id"}
    started = configuration.of_params(PipelineConfig, own, ENTRY_POINT)
    given = {name: getattr(config, name) for name, f in known.items() if getattr(config, name) != f.default}
    for name, value in given.items():
        free = name == "total_epochs" or known[name].metadata["role"]  # a place or the machine
        if value != getattr(started, name) and not free:
            raise UserError(
                f"run {run_id} was started with {name} = {getattr(started, name)}, not {value}; "
                "continue it with its own parameters (its tag taxon.command), or start a new run"
            )
    totals = tuple(int(total) for total in tags.get(TOTALS_TAG, str(started.total_epochs)).split(","))
    total = given.get("total_epochs", totals[-1])
    if total < totals[-1]:
        raise UserError(f"total_epochs = {total}, but run {run_id} has {totals[-1]}; raise it to train on, or leave it out")
    totals += (total,) if total > totals[-1] else ()
    return dataclasses.replace(started, **given | {"total_epochs": total}, resume_run_id=run_id), totals


def _continue(config: PipelineConfig, launched: Recorder, totals: tuple[int, ...]) -> dict[str, Any]:
    """Continue another pipeline run; the run that `mlflow run` opened for this command points to it."""
    launched.tags({"taxon.continues": config.resume_run_id})
    with reopen(config.resume_run_id) as resumed:
        resumed.tags({TOTALS_TAG: ",".join(map(str, totals))})
        return Pipeline(config, resumed, totals).run()


def server_of_stages() -> StageServer:
    """Return what runs the stages of pipelines, its imports begun."""
    server = StageServer([TRAIN_SUPERCLASS, OFFLINE_SSDDBC_SUPERCLASS])
    server.warm_up()
    return server


class Pipeline:
    """One pipeline run: what it was asked for, its tracking run, and what its stages have made.

    Args:
        config: resolved and checked.
        run: the tracking run.
        totals: how many epochs it was to have in all, one number for each time that it was raised. What had been planned stays as it was,
            with the learning rate of the shorter training; from there on it is that of the longer one.
        server: gives stages their processes; None = one of its own.
        loaded: data, split and truth, for whoever has them already.
    """

    def __init__(
        self,
        config: PipelineConfig,
        run: Recorder,
        totals: tuple[int, ...],
        server: StageServer | None = None,
        loaded: Posed | None = None,
    ):
        self.config, self.run_, self.totals = config, run, totals
        self.server = server or server_of_stages()
        self.data, self.split, self.truth = self.loaded = loaded or materials.posed(config)
        self.device = precision.pick_device(config.gpu)
        self.number_format = precision.resolve_precision(config.precision, self.device)
        self.export_key = self._export_key() if config.export_to else ""
        exports.require_own(exports.kinds(config.export), config.export_to, self.data.train.source, self.export_key)
        run.dataset(self.data.name, self.data.digest, config.data_root, "training")
        run.json(configuration.canonical(config), "config.json")
        self.trainings: list[Finished] = []
        self.asked: list[execute.Child] = []  # for the trainings
        self.clusterings: list[Finished] = []

    def run(self) -> dict[str, Any]:
        """Run every stage in order and publish the pipeline's result."""
        self.warm_up()
        self.train_with_pseudo_labels()
        without = self.train_without() if self.config.compare_without else None
        summary = pipeline_report.publish(self, without)
        self.lighten()
        return summary

    def warm_up(self) -> None:
        """Train the epochs before the first pseudo labels."""
        self._add(self._training(Segment(0, recipes.settled(self.config.stage1_epochs), self.totals[0]), "", ""))

    def train_with_pseudo_labels(self) -> None:
        """After the warm-up, cluster and train in turn."""
        first, interval = recipes.settled(self.config.stage1_epochs), recipes.settled(self.config.update_interval)
        for place, segment in enumerate(planned(first, interval, self.totals)):
            self.clusterings.append(self._cluster(segment.start))
            child = self._training(segment, self._checkpoint(), self._pseudo_labels())
            self._add(dataclasses.replace(child, ready=partial(self._go_on, place)))

    def _checkpoint(self) -> str:
        return _last_of(self.trainings[-1])

    def lighten(self) -> None:
        """Leave only the weights of what was trained between the warm-up, from which others start, and the end, which may go on."""
        if self.config.keep_checkpoints == "all":
            return
        for training in self.trainings[1:-1]:
            kept.lighten(training, self.config.save_ckpt_every)

    def _whole(self, place: int) -> str:
        """Return the last checkpoint of a training in order to go on from it; where only its weights are left, it is done again.

        Raises:
            UserError: this time it came out differently, as on devices that do not add up in the same order each time.
        """
        before = self.trainings[place]
        content = states.load_checkpoint(Path(_last_of(before))).content
        if content:
            child = self.asked[place]
            print(f"taxon: of '{child.name}' only the weights are left (keep_checkpoints=needed): it is trained again", file=sys.stderr)
            again = execute.required(execute.below(dataclasses.replace(child, anew=True), self.run_, self.server)).finished
            self.trainings[place] = again
            if states.content_digest(states.load_checkpoint(Path(_last_of(again)))) != content:
                raise UserError(
                    f"'{child.name}' was trained again, with another result than run {before.run_id}; "
                    "run the same command again: it goes on from the new one"
                )
        return _last_of(self.trainings[place])

    def _pseudo_labels(self) -> str:
        if not self.clusterings:
            return ""
        last = self.clusterings[-1]
        return str(last.folder / last.summary["pseudo_labels"])

    def _go_on(self, place: int, config: TrainConfig) -> TrainConfig:
        """Let a training start from the last checkpoint of the one at `place`, which is whole then."""
        return dataclasses.replace(config, resume_from_ckpt=self._whole(place))

    def _training(self, segment: Segment, checkpoint: str, pseudo: str, kind: str = "") -> execute.Child:
        config = self._train_config(segment, checkpoint, pseudo)
        found = materials.digests(self.loaded)
        key = keys.of_stage(TRAIN_SUPERCLASS.name, config, found, self.device, self.number_format)
        return self._child(TRAIN_SUPERCLASS, config, f"train {segment.start}-{segment.stop}{kind}", key)

    def _add(self, child: execute.Child) -> None:
        """Do a training of the pipeline's own line, on which the next one builds."""
        self.asked.append(child)
        self.trainings.append(self._stage(child))

    def train_without(self, curves: bool = False) -> Finished:
        """Train the pseudo-labelled epochs again without pseudo labels, from the same warm-up: the comparison that is fair.

        Args:
            curves: they are the run's own, where nothing else is trained.
        """
        last = self.trainings[0]
        for segment in planned(recipes.settled(self.config.stage1_epochs), self.totals[-1], self.totals):
            last = self._stage(self._training(segment, _last_of(last), "", " without pseudo labels"), curves)
        return last

    def _train_config(self, segment: Segment, checkpoint: str, pseudo: str) -> TrainConfig:
        made = {"resume_from_ckpt": checkpoint, "pseudo_labels_path": pseudo}
        if self.config.over_cluster != 1:  # more clusters are k-means', and so is the choice of the epoch
            made["answers_by"] = "kmeans"
        return configuration.fitted(TrainConfig, self.config, epochs=segment.total, stop_at_epoch=segment.stop, **made)

    def _cluster(self, epoch: int) -> Finished:
        made = {"ckpt_path": self._checkpoint(), "previous_pseudo_labels": self._pseudo_labels(), "current_epoch": epoch}
        config = configuration.fitted(SsddbcConfig, self.config, **rebuild.places_of(self.config), **made)
        opened = rebuild.open_for_report(config.ckpt_path, "ckpt_path", config, self.loaded)
        key = ssddbc.ssddbc_key(config, *opened)
        return self._stage(self._child(OFFLINE_SSDDBC_SUPERCLASS, config, f"cluster {epoch}", key))

    def _child(self, stage: Stage, config: TrainConfig | SsddbcConfig, name: str, key: str) -> execute.Child:
        short = pipeline_report.short if getattr(self.config, "labels", "given") == "given" else pipeline_report.of_ceiling
        told = lambda finished: short(finished.summary["metrics"])  # noqa: E731
        return execute.Child(stage, config, name, key=key, tags=self._tags(), told=told)

    def _stage(self, child: execute.Child, curves: bool = True) -> Finished:
        """Reuse a finished stage or run it; either way its metrics are on the pipeline's curves afterwards, where these are its own."""
        child = dataclasses.replace(child, follow=self.run_.metrics) if curves else child
        finished = execute.required(execute.below(child, self.run_, self.server)).finished
        if curves:
            for epoch, metrics in finished.summary.get("history", [[finished.summary["epoch"], finished.summary["metrics"]]]):
                self.run_.metrics(discovery.shown(metrics, self.config.eval_funcs), epoch)
        return finished

    def _tags(self) -> dict[str, str]:
        return {"taxon.data": self.data.name, "taxon.seed": str(self.config.seed)}

    def key(self, without: Finished | None) -> str:
        """Return the stage key of the pipeline itself: what its stages have made."""
        parts = (self.trainings, self.clusterings, [without] if without else [])
        made = [[_figures_of(one) for one in part] for part in parts]
        found = materials.digests(self.loaded) | {"stages": digest.of_json(made)}
        return keys.of_stage(ENTRY_POINT, self.config, found, self.device, self.number_format)

    def _export_key(self) -> str:
        """Return what an exported folder is known again by, before anything is trained: the images and what is asked of them."""
        found = {name: value for name, value in materials.digests(self.loaded).items() if name != "truth"}
        asked = dataclasses.replace(self.config, export="", suggest=0)
        return keys.of_stage("export", asked, found, self.device, self.number_format)

    def best(self) -> tuple[Finished, Path, dict[str, Any]]:
        """Return the stage that holds the best checkpoint, its file, and `{epoch, score}`."""
        best = self.trainings[-1].summary["chosen"]
        holders = [training for training in reversed(self.trainings) if _holds(training, best["epoch"])]
        chosen = holders[0] if holders else self.trainings[-1]
        name = f"checkpoints/epoch_{best['epoch']:04d}.safetensors" if holders else chosen.summary["checkpoint"]
        return chosen, chosen.folder / name, best


def _figures_of(stage: Finished) -> list[Any]:
    """Return what a stage has made, however much of its checkpoints is kept: the summary holds the digest of the weights."""
    return [item for item in sorted(stage.manifest.items()) if not item[0].startswith("checkpoints/")]


def _last_of(training: Finished) -> str:
    return str(training.folder / training.summary["checkpoint"])


def _holds(training: Finished, epoch: int) -> bool:
    return f"checkpoints/epoch_{epoch:04d}.safetensors" in training.manifest
