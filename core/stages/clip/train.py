"""SuperCLIP training: from images and sentences to checkpoints, curves, evaluation and the registered best model, resumable."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from core import config as configuration
from core import digest
from core.data.longtail import duplicates_across
from core.errors import UserError
from core.lineage import Item, Lineage
from core.models import sentence_files, sentence_names
from core.models.clip import ClipTowers
from core.serving import clip as serving
from core.stages import after, classification_report, execute, keys, leakage
from core.stages.classifier import ClassifierTraining
from core.stages.clip import baselines, checks, data, evaluate, few_shot, folds, materials
from core.stages.clip.config import ClipData, TrainClipConfig
from core.stages.clip.stages import TRAIN_CLIP
from core.tracking.recorder import Recorder
from core.training import distributed, precision, schedule
from core.training import state as states
from core.training.clip import ClipTask, weighs_classes
from core.training.loop import fit

ENTRY_POINT = TRAIN_CLIP.name
MONITORED = {"val_loss": ("val/nll", -1.0), "val_acc": ("val/accuracy", 1.0), "val_map": ("val/mAP", 1.0)}


@dataclass
class Prepared:
    """A training that is checked and named, but not begun: its stage key says whether it has been done before."""

    config: TrainClipConfig
    towers: ClipTowers
    m: materials.Materials
    facts: dict[str, Any]
    key: str
    lineage: Lineage


def prepare(config: TrainClipConfig, pool: data.Pool | None = None) -> Prepared:
    """Check the configuration, read images and sentences (unless `pool` has them), build the towers."""
    checks.check_training(config)
    pool = pool or data.load(config)
    record = leakage.admit(config, _parts(config, pool))
    towers = materials.make_towers(config)
    m = materials.gather(config, pool, towers)
    _require_validation(config, m)
    facts = _facts(config, towers, m)
    return Prepared(config, towers, m, facts, _stage_key(config, m, facts, states.weights_digest(towers.state_dict())), record)


def train(config: TrainClipConfig, run: Recorder | None) -> dict[str, Any]:
    """Train to the end (or until nothing improves) and publish the result; return its summary ({} on ranks other than 0)."""
    return execute.command(begin(config), run)


def begin(config: TrainClipConfig, pool: data.Pool | None = None) -> execute.Job:
    """Prepare one training; its key says whether it has been done before."""
    prepared = prepare(config, pool)

    def work(run: Recorder | None, unfinished: after.Unfinished | None) -> dict[str, Any]:
        training = ClipTraining(prepared, run)
        if run is not None:
            announce(prepared, run)
        return training.result(unfinished)

    registers = config.register and not config.fold
    return execute.Job(prepared.key, work, lambda run: describe(prepared, run), registers=registers)


class ClipTraining(ClassifierTraining):
    """One SuperCLIP training: materials, task, and where it stands. Nothing is told to the run before `result`.

    Args:
        prepared: what `prepare` gave.
        run: the tracking run; None on ranks other than 0.
    """

    family, server, data_options = "clip", serving, ClipData
    resume_facts = ("data_digest", "split_digest", "frozen_digest", "towers", "img_size", "embed_dim", "class_names")
    carried_facts = ("best", "baselines")

    def __init__(self, prepared: Prepared, run: Recorder | None):
        self.config, self.run, self.m = prepared.config, run, prepared.m
        self.facts, self.key, self.lineage = prepared.facts, prepared.key, prepared.lineage
        model, words_of = materials.sentence_model(self.config, self.m.pool, prepared.towers, self.m)
        self.before = {name: value.cpu().clone() for name, value in model.trained_state().items()}
        self.task = self._task(model, words_of)
        self.scaler = precision.loss_scaler(self.m.device, self.m.number_format)
        size = sum(value.nbytes for value in self.before.values())
        self.work = self.open_work_folder(self.key, size, f"training {self.config.image_encoder_name}")
        self.history: list[list[Any]] = []
        self.epoch = self.begin(self.config.resume, "resume")

    @property
    def stop(self) -> int:
        """The number of epochs."""
        return self.config.epochs

    def fit(self) -> None:
        """Train the epochs that are left."""
        plan = self.plan(self.lr, self.m, scaler=self.scaler, ended=self.exhausted)
        fit(self.task, plan, self.finish_epoch)

    def lr(self, epoch: int) -> float:
        """Return the learning rate of an epoch (0-based)."""
        start = self.config.learning_rate
        return start if self.config.scheduler == "none" else schedule.cosine(epoch, self.config.epochs, start)

    def exhausted(self) -> bool:
        """Say whether what is monitored has not improved for `early_stopping_patience` epochs; every improvement starts the count anew."""
        c = self.config
        name, sign = MONITORED[c.early_stopping_monitor]
        return self.stale(name, c.early_stopping_patience, sign, c.early_stopping_min_delta)

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Return validation metrics after `epoch` finished epochs."""
        if not len(self.m.data.val):
            return {}
        model, labels = self.task.model, torch.from_numpy(self.m.data.val.labels)
        images, sentences = self.m.embedded(model, "val")
        found = classification_report.report(self.m.data, "val", self.m.logits_of(model, images, sentences, "val"))
        return {f"val/{name}": value for name, value in (found.metrics | self.task.validation_losses(images, sentences, labels)).items()}

    def score(self, metrics: dict[str, float], epoch: int) -> float:
        """Return the validation metric that chooses the best epoch; the epoch itself where the last one is wanted."""
        return float(epoch) if self.takes_last else metrics[f"val/{self.config.select_by}"]

    @property
    def takes_last(self) -> bool:
        """Whether the last epoch is wanted, by `select_by` or without `save_best`."""
        return super().takes_last or not self.config.save_best

    def keep_every(self) -> int:
        """Return `save_freq`."""
        return self.config.save_freq

    def state(self, epoch: int) -> states.TrainState:
        """Return what trains, word counts, optimiser and loss scale."""
        model = dict(self.task.model.trained_state())
        if self.task.frequency is not None:
            model |= {f"frequency.{name}": value for name, value in self.task.frequency.state_dict().items()}
        facts = self.facts | {"scaler": self.scaler.state_dict()}
        return states.TrainState(epoch, model, self.task.optimizer.state_dict(), self.history, facts)

    def load_state(self, state: states.TrainState) -> None:
        """Take over what `state` holds of a checkpoint."""
        target = dict(self.task.model.trained_state())
        if self.task.frequency is not None:
            target |= {f"frequency.{name}": value for name, value in self.task.frequency.state_dict().items()}
        states.copy_into(target, state.model)
        self.task.optimizer.load_state_dict(state.optimizer)
        if state.facts.get("scaler"):
            self.scaler.load_state_dict(state.facts["scaler"])

    def start_fresh(self) -> None:
        """Score the towers before training."""
        if distributed.is_main():
            few = few_shot.lines(self.m, self.task.model, self.config.seed) if self.config.few_shot else {}
            self.facts["baselines"] = baselines.of_training(self)() | few

    def weights(self) -> dict[str, Any]:
        """Return what trains, by name."""
        return self.task.model.trained_state()

    def publish(self) -> dict[str, Any]:
        """Write the history beside the rest."""
        (self.work / "history.json").write_text(json.dumps(self.history, indent=1) + "\n")
        return super().publish()

    def logits(self, part: str) -> np.ndarray:
        """Return the logits (N, C) of a part's images by the model as it is."""
        return self.m.logits(self.task.model, part)

    def beside(self, logits: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return what stands beside the model: the lines from before its training and, where wanted, the average with those weights."""
        found = dict(self.facts["baselines"])
        if self.config.wise_ft:
            found |= baselines.wise_ft(self.m, self.task.model, self.before, self.config.select_by)
        return found

    def served(self) -> tuple[Any, Any]:
        """Return the model and its views."""
        return self.task.model, self.m.spec

    def about(self) -> dict[str, Any]:
        """Return what a served model says of itself."""
        return {name: getattr(self.config, name) for name in ("image_encoder_name", "image_pretrained", "text_encoder_name", "embed_dim")}

    @property
    def registers(self) -> bool:
        """Whether the model is to be registered: that of a fold is not."""
        return bool(self.config.register and not self.config.fold)

    def note(self, summary: dict[str, Any]) -> str:
        """Print the figures; return the description shown at the top of the run's page."""
        metrics = summary["best_metrics"]
        best = int(metrics["best_epoch"])
        print(evaluate.table(self.m.data.name, metrics, best))
        return evaluate.note(self.m.data, metrics, best, summary.get("model", ""))

    def restore_best(self) -> None:
        """Put the best epoch's weights back."""
        best = self.facts["best"]["epoch"]
        if self.has_checkpoint(best):
            self.load_state(states.load_checkpoint(self.work / "checkpoints" / states.checkpoint_name(best)))

    def _task(self, model: Any, words_of: Any) -> ClipTask:
        loader, frozen = self.m.loader(model.towers, self.config)
        labels = torch.from_numpy(self.m.data.train.labels)
        return ClipTask(model, labels, words_of, loader, frozen, self.evaluate, self.config, self.m.device)


def describe(prepared: Prepared, run: Recorder) -> None:
    """Tell the run what is trained on."""
    run.dataset(prepared.m.data.name, prepared.m.data.digest, prepared.config.data_dir, "training")
    run.options(configuration.canonical(prepared.config))


def announce(prepared: Prepared, run: Recorder) -> None:
    """Tell the run, and whoever watches, what is trained on, and what is odd about it."""
    config, m, found = prepared.config, prepared.m, prepared.m.data
    describe(prepared, run)
    counts = {part: len(m.part(part)) for part in data.PARTS}
    print(f"taxon: {found.name}: {', '.join(f'{n} {part}' for part, n in counts.items())} images", file=sys.stderr)
    for line in (*checks.idle_options(config), *checks.double_corrections(config)):
        print(f"taxon: {line}", file=sys.stderr)
    if not (config.image_pretrained or config.image_weights or "." in config.image_encoder_name or "/" in config.image_encoder_name):
        print("taxon: the image tower starts from scratch; image_pretrained or image_weights give it weights", file=sys.stderr)
    for part in ("val", "test"):
        rows = m.rows[part]
        absent = np.setdiff1d(np.arange(len(found.class_names)), m.pool.images.labels[rows]) if len(rows) else rows
        if len(absent):
            names = ", ".join(found.class_names[c] for c in absent[:5])
            print(f"taxon: {part} has no image of {len(absent)} classes, which it does not score: {names}", file=sys.stderr)
    pairs = duplicates_across(found)
    if pairs:
        print(
            f"taxon: {len(pairs)} images are in more than one part, e.g. {pairs[0].first} and {pairs[0].second}; "
            "remove one of each, or group them",
            file=sys.stderr,
        )
    run.tags({"taxon.duplicates_across_parts": len(pairs)})
    run.started()


def _parts(config: TrainClipConfig, pool: data.Pool) -> leakage.Parts:
    """Return the images of each part; those of a fold are its own."""
    digests, rows = pool.files.file_digests, folds.parts(pool, config)
    found: dict[str, list[Item]] = {part: [(digests[i],) for i in rows[part]] for part in data.PARTS}
    return leakage.Parts(found["train"], found["val"], found["test"])


def _facts(config: TrainClipConfig, towers: ClipTowers, m: materials.Materials) -> dict[str, Any]:
    """Return what a checkpoint says of itself."""
    encoder = config.text_encoder_name
    text = sentence_names.PREFIX + sentence_files.digest_of(encoder) if sentence_names.is_named(encoder) else encoder
    return {
        "config": configuration.canonical(config),
        "data": m.pool.name,
        "data_digest": m.pool.digest,
        "split_digest": digest.of_json([digest.of_array(m.rows[part]) for part in data.PARTS]),
        "frozen_digest": [towers.visual.frozen_digest(), towers.text.digest() if towers.text.locked else ""],
        "towers": [config.image_encoder_name, text],
        "img_size": config.img_size,
        "embed_dim": config.embed_dim,
        "class_names": list(m.pool.class_names),
        "best": {"epoch": 0, "score": -1e9},
        "baselines": {},
    }


def _stage_key(config: TrainClipConfig, m: materials.Materials, facts: dict[str, Any], towers: str) -> str:
    found = {"data": facts["data_digest"], "split": facts["split_digest"], "image_weights": towers, "text_weights": towers}
    acting = replace(config, use_class_weights=weighs_classes(config))  # `auto` is a way to say it
    return keys.of_stage(ENTRY_POINT, acting, found, m.device, m.number_format)


def _require_validation(config: TrainClipConfig, m: materials.Materials) -> None:
    if len(m.data.val):
        return
    if config.select_by != "last" and config.save_best:
        raise UserError(f"select_by = {config.select_by} needs validation images; raise val_fraction, or use select_by = last")
    if config.early_stopping_patience:
        said = f"early_stopping_patience = {config.early_stopping_patience}"
        raise UserError(f"{said} needs validation images; raise val_fraction or set it to 0")
