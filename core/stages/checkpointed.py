"""What every family's training does with its epochs: choose the best, save, track, resume, publish."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from core import config as configuration
from core import progress
from core.errors import UserError
from core.lineage import Lineage
from core.stages import after, inputs, kept
from core.stages.sources import Source
from core.tracking.recorder import Recorder
from core.training import distributed
from core.training import state as states
from core.training.loop import Plan
from core.training.stopping import stale_epochs

NO_BEST = {"epoch": 0, "score": -1e9}


class Machine(Protocol):
    """What a family's materials say of the machine."""

    device: torch.device
    number_format: str


class CheckpointedTraining:
    """A training whose finished epochs are on disk and in the store; families derive from it.

    The order of resuming: newest valid checkpoint of this very stage in its work folder; else the checkpoint that the
    configuration names, and the best one with it; else the start. A family sets the attributes below in its constructor, calls
    `begin`, and supplies `stop`, `score`, `state`, `load_state` and `weights`.

    Attributes:
        config: the resolved configuration, with `save_best_thresh`.
        run: the tracking run, None on ranks other than 0.
        work, key: the stage's work folder and stage key.
        facts: JSON values that a checkpoint says of itself; `best` holds the epoch and score of the best one.
        history: one [epoch, {metric: value}] per finished epoch.
        epoch: finished epochs at the start.
    """

    resume_facts: tuple[str, ...] = ()
    """What a checkpoint must share with the training that continues it."""
    carried_facts: tuple[str, ...] = ("best",)
    """What a continued training takes over from the checkpoint's facts."""

    lineage: Lineage = Lineage()
    """What its weights have learnt from; in every checkpoint and predictor."""
    unfinished: after.Unfinished | None = None
    """The run that published this training and is told of what was left to be done; None = it is to be published."""

    config: Any
    run: Recorder | None
    work: Path
    key: str
    facts: dict[str, Any]
    history: list[list[Any]]
    epoch: int

    @property
    def recorder(self) -> Recorder:
        """The run, for what only rank 0 does."""
        assert self.run is not None
        return self.run

    @property
    def stop(self) -> int:
        """The number of finished epochs at which this stage ends."""
        raise NotImplementedError

    def score(self, metrics: dict[str, float], epoch: int) -> float:
        """Return the number by which the best epoch is chosen; larger is better."""
        raise NotImplementedError

    def state(self, epoch: int) -> states.TrainState:
        """Return everything that continues this training after `epoch` finished epochs."""
        raise NotImplementedError

    def load_state(self, state: states.TrainState) -> None:
        """Take over the weights, the optimiser and whatever else trains from a checkpoint."""
        raise NotImplementedError

    def counts(self, epoch: int, now: int) -> bool:
        """Say whether an epoch may be the best one, where `now` epochs are finished; 0 is the untrained model."""
        return epoch > 0

    def start_fresh(self) -> None:
        """Do what a training without a checkpoint starts with."""

    def weights(self) -> dict[str, Any]:
        """Return the weights by name whose digest stands for the result."""
        raise NotImplementedError

    def fit(self) -> None:
        """Train the epochs that are left."""
        raise NotImplementedError

    def publish(self) -> dict[str, Any]:
        """Store the result and do what comes after; return the summary."""
        raise NotImplementedError

    def result(self, unfinished: after.Unfinished | None = None) -> dict[str, Any]:
        """Train the epochs that are left and publish; return the summary ({} on ranks other than 0).

        Args:
            unfinished: the run that has published this training, which is told of what was left to be done.
        """
        self.unfinished = unfinished
        self.fit()
        return self.publish() if self.run is not None else {}

    def plan(self, lr: Callable[[int], float], m: Machine, **more: Any) -> Plan:
        """Return which epochs are left, on which device; `lr` is the learning rate of a global epoch."""
        steps: dict[str, Any] = {"on_steps": self._log_steps, "log_interval": getattr(self.config, "log_interval", 0)}
        return Plan(self.epoch, self.stop, lr, m.device, m.number_format, self.config.seed, **steps | more)

    def stale(self, name: str, patience: int, sign: float = 1.0, min_delta: float = 0.0) -> bool:
        """Say whether the best value of an epoch's metric is `patience` epochs old (0 = never); -1 = smaller is better."""
        return bool(patience) and stale_epochs([sign * metrics[name] for _, metrics in self.history], min_delta) >= patience

    def open_work_folder(self, key: str, trained: int, what: str) -> Path:
        """Return the stage key's work folder; UserError where the disk has no room for checkpoints of `trained` bytes of weights."""
        from core.tracking import stage, store

        folder = stage.work_folder(key)
        store.require_space(folder, 12 * trained + (64 << 20), what)
        return folder

    def _log_steps(self, values: dict[str, float], step: int) -> None:
        if self.run is not None:
            self.run.metrics({f"step/{name}": value for name, value in values.items()}, step)

    def keep_every(self) -> int:
        """Return that every so-many-th checkpoint is kept beside last and best; 0 = none."""
        return self.config.save_ckpt_every

    def begin(self, resume_from: str, option: str) -> int:
        """Restore the newest state there is, or start fresh; return the number of finished epochs."""
        return self.start(self.newest(resume_from, option), resume_from, option)

    def newest(self, resume_from: str, option: str) -> states.TrainState | None:
        """Return the newest state there is: in the work folder, else in the checkpoint to resume from; None = nothing to go on from.

        Raises UserError where it is none of this training.
        """
        found = states.newest_valid(self.work / "checkpoints", whole=True) if distributed.is_main() else None
        state = found[1] if found else None
        if state is None and resume_from and distributed.is_main():
            state = states.load_checkpoint(inputs.checkpoint_at(resume_from, option))
            if state.content:
                raise UserError(
                    f"{option} = '{resume_from}': the checkpoint of epoch {state.epoch} holds its weights only; give the last one of that "
                    "training, or train it again with keep_checkpoints=all"
                )
        state = distributed.from_main(state)
        if state is not None:
            self._require_own(state)
        return state

    def start(self, state: states.TrainState | None, resume_from: str, option: str) -> int:
        """Restore what `newest` returned, or start fresh; return the number of finished epochs."""
        if state is None:
            self.start_fresh()
            return 0
        self._restore(state)
        if distributed.is_main():
            self._settle_best(resume_from, option)
        return state.epoch

    def _settle_best(self, resume_from: str, option: str) -> None:
        """Let the best epoch so far be one whose checkpoint is in the work folder: brought along from `resume_from`, or the next best.

        The checkpoint resumed from comes first: a restart continues from the newest one that lies here.
        """
        folder, now = self.work / "checkpoints", self.history[-1][0]

        def is_here(epoch: int) -> bool:
            return states.is_vouched(folder, epoch) or (
                bool(resume_from) and Source(resume_from, option, self.history).bring(epoch, folder)
            )

        if not is_here(now):
            raise UserError(f"{option} = '{resume_from}': the checkpoint of epoch {now} is damaged; use the one before it")
        ranked = self._ranked()
        chosen = next((place for place, (epoch, _) in enumerate(ranked) if is_here(epoch)), None)
        self.facts["best"] = dict(NO_BEST) if chosen is None else {"epoch": ranked[chosen][0], "score": ranked[chosen][1]}
        if chosen:
            (lost, score), (epoch, instead) = ranked[0], ranked[chosen]
            print(
                f"taxon: the checkpoint of epoch {lost}, the best one so far ({score:.4g}), is not beside the one resumed from; "
                f"epoch {epoch} ({instead:.4g}) takes its place",
                file=sys.stderr,
            )

    def _ranked(self) -> list[tuple[int, float]]:
        """Return (epoch, score) of the finished epochs that may be the best one, the best first."""
        now, found = self.history[-1][0], []
        for epoch, metrics in self.history:
            with contextlib.suppress(KeyError):  # a metric that was not measured then
                if self.counts(epoch, now) and (score := self.score(metrics, epoch)) > self.threshold:
                    found.append((epoch, score))
        return sorted(found, key=lambda row: (-row[1], row[0]))

    def finish_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Choose, save, then track: metrics are in the checkpoint before they are on their way to the store."""
        self.history.append([epoch, metrics])
        score = self.score(metrics, epoch)
        if not self.counts(self.facts["best"]["epoch"], epoch):
            self.facts["best"] = dict(NO_BEST)
        if self.counts(epoch, epoch) and score > max(self.facts["best"]["score"], self.threshold):
            self.facts["best"] = {"epoch": epoch, "score": score}
        folder = self.work / "checkpoints"
        if epoch > 0:
            state = self.state(epoch)
            state.lineage = self.lineage
            states.save_checkpoint(folder, state)
            states.prune(folder, self._kept)
        self._tell(epoch, metrics)
        if self.run is not None:
            progress.tell_epoch(epoch, self.stop, metrics)

    def shown(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return those of an epoch's metrics that were asked for; checkpoints and summary hold all of them."""
        return metrics

    @property
    def takes_last(self) -> bool:
        """Whether the score is the epoch itself: the last one is the best one."""
        return self.config.select_by == "last"

    @property
    def threshold(self) -> float:
        """The score that a best epoch has to exceed; the last epoch is taken whatever it scores."""
        return -math.inf if self.takes_last else self.config.save_best_thresh

    def _choose(self) -> None:
        """Let the last epoch stand for a training in which none was good enough: figures and model are of one checkpoint."""
        if self.has_checkpoint(self.facts["best"]["epoch"]):
            return
        last, metrics = self.history[-1]
        self.facts["best"] = {"epoch": last, "score": self.score(metrics, last)}
        print(
            f"taxon: no epoch is above save_best_thresh = {self.threshold:g}: figures and model are those of the last one, {last}",
            file=sys.stderr,
        )

    def summarise(self) -> dict[str, Any]:
        """Return what later stages read of this one; from here on `facts['best']` is the epoch that stands for the training.

        `best` is the epoch above the threshold, 0 where there is none; `chosen` is that one, or else the last.
        """
        last, best = states.checkpoint_name(self.history[-1][0]), self.facts["best"]
        kept = self.has_checkpoint(best["epoch"])
        self._choose()
        return {
            "epoch": self.history[-1][0],
            "checkpoint": f"checkpoints/{last}",
            "best": best,
            "best_checkpoint": f"checkpoints/{states.checkpoint_name(best['epoch'])}" if kept else "",
            "chosen": self.facts["best"],
            "weights_digest": self.digest(),
            "metrics": self.history[-1][1],
            "history": self.history,
        }

    def publish_stage(self, summary: dict[str, Any], tags: dict[str, Any], steps: after.Steps) -> dict[str, Any]:
        """Store checkpoints, configuration and whatever else lies in the work folder, with a manifest; then do what comes after.

        Return the summary with what the steps add. The folder is cleared when nothing is left to be done.
        """
        from core.tracking import stage

        if self.config.keep_checkpoints == "needed" and self.unfinished is None:
            states.prune(self.work / "checkpoints", lambda epoch: self._stays_whole(epoch) or epoch == self.facts["best"]["epoch"])
            for light in states.lightened(self.work / "checkpoints", self._stays_whole):
                states.save_checkpoint(self.work / "checkpoints", light)
        (self.work / "config.json").write_text(json.dumps(configuration.canonical(self.config), indent=1, sort_keys=True) + "\n")
        steps = dataclasses.replace(steps, each={**steps.each, "pictures": self._with_curves(steps.each.get("pictures"))})
        described = {stage.KEY_TAG: self.key, "taxon.seed": str(self.config.seed), "taxon.weights_digest": summary["weights_digest"]}
        tags = {**described, "taxon.best_checkpoint": summary["best_checkpoint"], **tags}
        found = after.settle(after.published(self.recorder, self.work, summary, tags, steps, self.unfinished), steps)
        stage.clear(self.work)
        return found

    def _with_curves(self, pictures: after.Step | None) -> after.Step:
        """Return a family's step that draws its pictures, with the curves that every family has."""

        def draw(summary: dict[str, Any]) -> None:
            inputs.draw_curves(self.history, self.work / "plots" / "curves.png")
            if pictures is not None:
                pictures(summary)

        return draw

    def metrics_at(self, epoch: int) -> dict[str, float]:
        """Return the metrics of a finished epoch, the last one's where that epoch is not in the history."""
        return next((metrics for at, metrics in self.history if at == epoch), self.history[-1][1])

    def digest(self) -> str:
        """Return the sha256 of the weights as they are."""
        return states.weights_digest(self.weights())

    def has_checkpoint(self, epoch: int) -> bool:
        """Say whether the checkpoint of an epoch is still there."""
        return (self.work / "checkpoints" / states.checkpoint_name(epoch)).is_file()

    def _kept(self, epoch: int) -> bool:
        """Keep last, the one before it (should the last be damaged), best, and every so-many-th."""
        newest = self.history[-1][0]
        finished = newest == self.stop
        return self._stays_whole(epoch) or epoch == self.facts["best"]["epoch"] or (epoch == newest - 1 and not finished)

    def _stays_whole(self, epoch: int) -> bool:
        """Say whether a training may go on from an epoch's checkpoint when this one has ended: the last and every so-many-th."""
        return epoch == self.history[-1][0] or kept.asked_for(epoch, self.keep_every())

    def _require_own(self, state: states.TrainState) -> None:
        """Raise UserError for a checkpoint that this training cannot go on from."""
        differing = [name for name in self.resume_facts if state.facts.get(name) != self.facts[name]]
        if differing:
            name = differing[0]
            raise UserError(
                f"the checkpoint to resume from was made with another {name} ({str(state.facts.get(name))[:40]} instead of "
                f"{str(self.facts[name])[:40]}); use the settings it was trained with"
            )
        if state.epoch > self.stop:
            raise UserError(
                f"the checkpoint to resume from has finished epoch {state.epoch}, this training ends at {self.stop}; raise epochs"
            )

    def _restore(self, state: states.TrainState) -> None:
        states.set_rng(state)
        self.load_state(state)
        self.history = state.history
        self.facts |= {name: state.facts[name] for name in self.carried_facts}
        for epoch, metrics in self.history:
            self._tell(epoch, metrics)

    def _tell(self, epoch: int, metrics: dict[str, float]) -> None:
        if self.run is not None:
            shown = self.shown(metrics)
            self.run.metrics(shown, epoch)
            self.run.forward(shown, epoch)
