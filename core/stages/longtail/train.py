"""Long-tail training: from images to checkpoints, curves, evaluation and the registered best model, resumable at any epoch."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from core import config as configuration
from core.data.classification import tail_classes
from core.data.longtail import PARTS, duplicates_across
from core.errors import UserError
from core.evaluation.compare import METRICS
from core.evaluation.scorer import scorer
from core.lineage import Lineage
from core.losses.logit_adjustment import adjustment, choose_tau
from core.models import sync_batch_norm
from core.models.split import last_stage_modules
from core.serving import classifier as serving
from core.stages import after, classification_report, execute, held_out, keys, leakage
from core.stages.classifier import METRIC, ClassifierTraining
from core.stages.longtail import checks, evaluate, materials, rebuild
from core.stages.longtail.config import LongtailImages, LongtailTrainConfig
from core.stages.longtail.stages import TRAIN_LONGTAIL
from core.tracking.recorder import Recorder
from core.training import distributed, precision, timeline
from core.training import state as states
from core.training.longtail import LabelLoss, LongtailTask
from core.training.loop import fit
from core.training.stopping import stale_epochs

ENTRY_POINT = TRAIN_LONGTAIL.name
TAUS = tuple(np.round(np.arange(0.0, 2.51, 0.1), 2))
FULLY = "all"


def run(config: LongtailTrainConfig, run: Recorder | None) -> dict[str, Any]:
    """Run `train_longtail`; return the stage's summary ({} on ranks other than 0)."""
    return train(checks.check_training(config), run)


def train(config: LongtailTrainConfig, run: Recorder | None) -> dict[str, Any]:
    """Train to the end (or until nothing improves) and publish the result; return its summary."""
    with distributed.joined(config.gpu):
        return execute.command(begin(config), run)


def begin(config: LongtailTrainConfig) -> execute.Job:
    """Prepare one training; its key says whether it has been done before."""
    prepared = prepare(config)

    def work(run: Recorder | None, unfinished: after.Unfinished | None) -> dict[str, Any]:
        return LongtailTraining(prepared, run).result(unfinished)

    return execute.Job(prepared.key, work, lambda run: _describe(prepared.config, prepared.m.data, run), registers=config.register)


def _describe(config: LongtailTrainConfig, data: Any, run: Recorder) -> None:
    run.dataset(data.name, data.digest, config.data_root or config.train_dir or config.train_meta, "training")
    run.options(configuration.canonical(config))


@dataclass
class Prepared:
    """A training that is checked and named, but not begun: its stage key says whether it has been done before.

    config: settled, every epoch option as it acts. timeline: the schedule in lines, with what of it is scaled and what was given.
    """

    config: LongtailTrainConfig
    m: materials.Materials
    model: Any
    about: dict[str, Any]
    lineage: Lineage
    key: str
    timeline: list[str]


def prepare(config: LongtailTrainConfig, data: Any = None, kept: dict[tuple[str, int], Any] | None = None) -> Prepared:
    """Read the images, check that they suffice, build the model.

    Args:
        config: checked.
        data: the images that `config` names, for whoever has read them already.
        kept: resized images by (part, size), shared by trainings on the same data.
    """
    data = data or materials.load_data(config)
    materials.require_validation(config, data)
    lineage = leakage.admit(config, held_out.parts_of(data))
    model, about = materials.build_model(config, data, config.pretrained)
    m = materials.gather(config, data, about["mean"], about["std"])
    m.kept = m.kept if kept is None else kept
    found = {"data": data.digest, "weights": about["backbone"]}
    said, config = timeline.describe(config), timeline.settled(config)
    return Prepared(config, m, model, about, lineage, keys.of_stage(ENTRY_POINT, config, found, m.device, m.number_format), said)


class LongtailTraining(ClassifierTraining):
    """One long-tail training: materials, task, and where it stands.

    Args:
        prepared: what `prepare` gave.
        run: the tracking run, None on ranks other than 0.
    """

    family, server, data_options = "longtail", serving, LongtailImages
    resume_facts = ("data_digest", "backbone_digest", "backbone", "model_type", "image_size", "class_names")

    def __init__(self, prepared: Prepared, run: Recorder | None):
        self.config, self.run = prepared.config, run
        self.m, self.key, self.lineage = prepared.m, prepared.key, prepared.lineage
        config, model, data = self.config, prepared.model, self.m.data
        if distributed.world_size() > 1:
            model.net = sync_batch_norm.convert(model.net)
        self.task = self._task(model.to(self.m.device))
        self.scaler = precision.loss_scaler(self.m.device, self.m.number_format)
        self.facts = self._facts(prepared.about)
        size = sum(p.nbytes for p in self.task.model.parameters())
        self.work = self.open_work_folder(self.key, size, f"training {config.backbone}")
        self.history: list[list[Any]] = []
        self.probe, self.probed = self._probe() if config.linear_probe and run is not None else ({}, {})
        self.epoch = self.begin(config.resume, "resume")
        if run is not None:
            _describe(config, data, run)
            self._announce_timeline(prepared.timeline)
            run.started()

    @property
    def stop(self) -> int:
        """The number of epochs."""
        return self.config.epochs

    def fit(self) -> None:
        """Train the epochs that are left."""
        c = self.config
        more = {"accumulate": c.accumulation_steps, "clip_norm": c.clip_norm, "scaler": self.scaler, "ended": self.exhausted}
        plan = self.plan(lambda epoch: timeline.lr_at(c, epoch), self.m, **more)
        fit(self.task, plan, self.finish_epoch)

    def exhausted(self) -> bool:
        """Say whether the best score is `early_stopping_patience` epochs old; a classifier to be trained anew is waited for."""
        patience, now = self.config.early_stopping_patience, self.history[-1][0] if self.history else 0
        if not patience or now <= self._retrained_from < self.stop:
            return False
        return stale_epochs([self.score(metrics, epoch) for epoch, metrics in self.history if self.counts(epoch, now)]) >= patience

    def counts(self, epoch: int, now: int) -> bool:
        """Say whether an epoch may be the best one: once the classifier is trained anew, only the epochs since then."""
        return epoch > (self._retrained_from if now > self._retrained_from else 0)

    @property
    def _retrained_from(self) -> int:
        return timeline.retrained_from(self.config)

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Return validation metrics of the scored model after `epoch` finished epochs, at the image size it was trained on."""
        if not len(self.m.data.val):
            return {}
        size = timeline.phase_at(self.config, epoch - 1).image_size
        metrics: dict[str, float] = {}
        if self.config.loss_type == "logit_adjustment":
            metrics["tau"] = self._adjust(size)
        outputs = self.m.outputs(self.task.scored, "val", size)
        found = classification_report.report(self.m.data, "val", outputs["label"])
        return metrics | {f"val/{name}": value for name, value in found.metrics.items()}

    def score(self, metrics: dict[str, float], epoch: int) -> float:
        """Return the validation metric that chooses the best epoch."""
        return float(epoch) if self.config.select_by == "last" else metrics[f"val/{self.config.select_by}"]

    def keep_every(self) -> int:
        """Return `save_freq`."""
        return self.config.save_freq

    def state(self, epoch: int) -> states.TrainState:
        """Return what has trained so far, its average, optimiser, centres and loss scale."""
        level = timeline.widest(self.config, epoch)
        model = {f"model.{name}": value for name, value in self._trained(self.task.model, level).items()}
        if self.task.ema is not None:
            model |= {f"average.{name}": value for name, value in self._trained(self.task.ema.module, level).items()}
            model["averaged_steps"] = self.task.ema.n_averaged
        if self.task.center is not None:
            model |= {f"center.{name}": value for name, value in self.task.center.state_dict().items()}
        facts = self.facts | {"scaler": self.scaler.state_dict()}
        return states.TrainState(epoch, model, self.task.optimizer.state_dict(), self.history, facts)

    def load_state(self, state: states.TrainState) -> None:
        """Take the shape of the checkpoint's epoch, then its weights, optimiser and loss scale."""
        self.task.become(timeline.phase_at(self.config, state.epoch - 1))
        level = timeline.widest(self.config, state.epoch)
        states.copy_into(self._trained(self.task.model, level), _part(state.model, "model."))
        if self.task.ema is not None:
            states.copy_into(self._trained(self.task.ema.module, level), _part(state.model, "average."))
            self.task.ema.n_averaged.copy_(state.model["averaged_steps"])
        if self.task.center is not None:
            states.copy_into(self.task.center.state_dict(), _part(state.model, "center."))
        self._load_optimizer(state)
        if state.facts.get("scaler"):
            self.scaler.load_state_dict(state.facts["scaler"])

    def _load_optimizer(self, state: states.TrainState) -> None:
        optimizer = self.task.optimizer
        saved, wanted = ([_shape_of(group) for group in groups] for groups in (state.optimizer["param_groups"], optimizer.param_groups))
        if saved != wanted:
            raise UserError(
                "the optimizer of the checkpoint to resume from does not fit (another optimizer, or other parts train in its epoch); "
                "use the settings it was trained with"
            )
        optimizer.load_state_dict(state.optimizer)

    def start_fresh(self) -> None:
        """Compute what the first phase needs."""
        self.task.start_fresh()

    def weights(self) -> dict[str, Any]:
        """Return the scored weights by name."""
        return dict(self.task.scored.state_dict())

    def logits(self, part: str) -> np.ndarray:
        """Return the logits (N, C) of a part's images by the scored model, at the image size of the best epoch."""
        return self.m.outputs(self.task.scored, part, self.size)["label"]

    def beside(self, logits: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return what the linear probe reaches, and how much better than the model it is on validation."""
        if "val" not in self.probed or "val" not in logits:
            return self.probe
        gain = classification_report.probe_gain(self.m.data, self.probed["val"], logits["val"], self._compared_by(), self.config.seed)
        return self.probe | {f"probe/{name}": value for name, value in gain.items()}

    def warning(self, metrics: Mapping[str, float]) -> str:
        """Return that the linear probe is better, where it surely is."""
        return evaluate.beaten(metrics, self._compared_by())

    def served(self) -> tuple[Any, Any]:
        """Return the scored model and its views."""
        return self.task.scored, self.m.spec(self.size)

    def about(self) -> dict[str, Any]:
        """Return what a served model says of itself."""
        return {name: getattr(self.config, name) for name in ("backbone", "model_type", "loss_type")}

    def note(self, summary: dict[str, Any]) -> str:
        """Print the figures; return the description shown at the top of the run's page."""
        metrics, best = summary["best_metrics"], summary["chosen"]["epoch"]
        warning = self.warning(metrics)
        print(evaluate.table(self.m.data.name, metrics, best))
        if warning:
            print(f"taxon: {warning}")
        return evaluate.note(self.m.data, metrics, best, summary.get("model", ""), warning)

    def _probe(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Return what logistic regression on the pretrained network's features reaches: the model is still untrained here."""
        size = timeline.first_phase(self.config).image_size
        parts = {part: self.m.outputs(self.task.model, part, size)["features"] for part in PARTS if len(self.m.part(part))}
        score = scorer(self._metric(), len(self.m.data.class_names), self.m.data.class_counts)
        found, answers = classification_report.probe(self.m.data, parts, score)
        return {f"probe/{name}": value for name, value in found.items()}, answers

    def _metric(self) -> str:
        """Return the validation metric that chooses tau and the probe's strength."""
        return "balanced_accuracy" if self.config.select_by == "last" else self.config.select_by

    def _compared_by(self) -> str:
        """Return the metric by which model and probe are compared: the one that chooses, where intervals of it can be computed."""
        return self._metric() if self._metric() in METRICS else METRIC

    def restore_best(self) -> None:
        """Let the model of the epoch that stands for the training be the scored one, at its image size."""
        best = self.facts["best"]["epoch"]
        name = states.checkpoint_name(best)
        state = states.load_checkpoint(self.work / "checkpoints" / name)
        # An epoch that was brought along from another training was as that one's schedule says.
        trained = dataclasses.replace(rebuild.trained_config(state), weights=self.config.weights, pretrained=self.config.pretrained)
        model, _about = rebuild.scored_model(trained, self.m.data, state, name)
        self.task.end_with(model.to(self.m.device))
        self.size = timeline.phase_at(trained, best - 1).image_size

    def _adjust(self, size: int) -> float:
        """Choose tau on validation and make it part of the models; return it."""
        model = self.task.scored
        for one in self._models():
            one.logit_bias.zero_()
        logits = torch.from_numpy(self.m.outputs(model, "val", size)["label"])
        counts = torch.from_numpy(self.m.data.class_counts)
        labels = torch.from_numpy(self.m.data.val.labels)
        score = scorer(self._metric(), len(counts), self.m.data.class_counts)
        tau, _reached = choose_tau(logits, labels, counts, score, TAUS)
        for one in self._models():
            one.logit_bias.copy_(adjustment(counts, tau))
        return tau

    def _models(self) -> list[Any]:
        return [self.task.model] if self.task.ema is None else [self.task.model, self.task.ema.module]

    def _trained(self, model: Any, level: str) -> dict[str, Any]:
        """Return references to the parameters and buffers that a training up to `level` may have changed."""
        everything = model.state_dict()
        if level == FULLY and not model.frozen_backbone:
            return everything
        kept = {name for name in everything if not name.startswith("net.")}
        if level == "last_stage" and not model.frozen_backbone:
            parts = {id(module) for module in last_stage_modules(model.net)}
            prefixes = tuple(f"{name}." for name, module in model.named_modules() if id(module) in parts)
            kept |= {name for name in everything if name.startswith(prefixes)}
        return {name: value for name, value in everything.items() if name in kept}

    def _task(self, model: Any) -> LongtailTask:
        data, config = self.m.data, self.config
        counts, weights = torch.from_numpy(data.class_counts), torch.from_numpy(data.weights)
        tail = torch.from_numpy(tail_classes(data.class_counts))
        loss = LabelLoss(config, counts.to(self.m.device), weights.to(self.m.device), tail.to(self.m.device))
        attributes = {name: torch.from_numpy(data.attributes[name].of_class) for name in materials.attributes_of(config, data)}
        return LongtailTask(
            model,
            loss,
            torch.from_numpy(data.train.labels),
            attributes,
            lambda phase: self.m.loader(phase, config),
            self._class_features,
            self.evaluate,
            config,
            self.m.device,
            self._announce,
        )

    def _class_features(self, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.m.outputs(model, "train", self.m.current_size("train"))["features"]
        return torch.from_numpy(features), torch.from_numpy(self.m.data.train.labels)

    def _facts(self, about: dict[str, Any]) -> dict[str, Any]:
        """Return what a checkpoint says of itself, enough to rebuild the model from it."""
        data, config = self.m.data, self.config
        return {
            "config": configuration.canonical(config),
            "data": data.name,
            "data_digest": data.digest,
            "backbone_digest": about["backbone"],
            "backbone": config.backbone,
            "model_type": config.model_type,
            "image_size": config.image_size,
            "class_names": list(data.class_names),
            "class_counts": data.class_counts.tolist(),
            "attributes": {name: [list(a.names), a.of_class.tolist()] for name, a in data.attributes.items()},
            "mean": list(about["mean"]),
            "std": list(about["std"]),
            "best": {"epoch": 0, "score": -1e9},
        }

    def _announce_timeline(self, lines: list[str]) -> None:
        print("\n".join(f"taxon: {line}" for line in lines), file=sys.stderr)
        self.recorder.json(lines, "timeline.json")
        pairs = duplicates_across(self.m.data)
        if pairs:
            print(
                f"taxon: {len(pairs)} images are in more than one part, e.g. {pairs[0].first} and {pairs[0].second}; "
                "prepare_longtail lists them",
                file=sys.stderr,
            )
        self.recorder.tags({"taxon.duplicates_across_parts": len(pairs)})

    def _announce(self, line: str) -> None:
        if self.run is not None:
            print(f"taxon: {line}", file=sys.stderr)


def _shape_of(group: dict[str, Any]) -> tuple[str, int, list[str]]:
    """Return what an optimiser's group has to share with the one whose state it takes."""
    return group["name"], len(group["params"]), sorted(group.keys() - {"initial_lr"})


def _part(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
