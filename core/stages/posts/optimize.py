"""Training a classifier of posts: from CSV files to checkpoints, curves, evaluation and the registered best model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core import config as configuration
from core.data.posts import Posts
from core.errors import UserError
from core.evaluation.scorer import scorer, softmax
from core.losses.logit_adjustment import adjustment, choose_tau
from core.models import lora
from core.models.post_head_names import BLEND
from core.models.post_net import PostNet
from core.serving.posts import TowersPredictor
from core.serving.posts_blend import BlendPredictor
from core.stages import after, execute, keys
from core.stages.checkpointed import CheckpointedTraining
from core.stages.posts import blend, checks, evaluate, materials, publish, reference
from core.stages.posts.config import OptimizeClipConfig
from core.stages.posts.stages import OPTIMIZE_CLIP
from core.tracking.recorder import Recorder
from core.training import distributed, precision
from core.training import state as states
from core.training.finite import require_outputs
from core.training.loop import fit
from core.training.posts import PostLoss, PostsTask, trained_state

ENTRY_POINT = OPTIMIZE_CLIP.name
TAUS = tuple(np.round(np.arange(0.0, 1.51, 0.1), 2))
_FORWARD_BATCH = 256


def run(config: OptimizeClipConfig, run: Recorder | None) -> dict[str, Any]:
    """Run `optimize_clip`; return the stage's summary ({} on ranks other than 0)."""
    if run is not None:
        checks.announce(checks.idle_options(config) + checks.double_corrections(config))
    with distributed.joined(config.gpu):
        return execute.command(begin(config), run)


def train(config: OptimizeClipConfig, run: Recorder | None) -> dict[str, Any]:
    """Train to the end (or until nothing improves) and publish the result; return its summary.

    Whoever calls this on the main process holds the lock of the stage key: trainings of one key share a work folder.
    """
    with distributed.joined(config.gpu):
        return execute.once(begin(config), run)


def begin(config: OptimizeClipConfig, rows: dict[str, Posts] | None = None) -> execute.Job:
    """Check one training and read its posts (unless `rows` has them); its key says whether it has been done before."""
    checks.check_training(config)
    posts = rows or materials.load_rows(config)
    key = key_of(config, posts)

    def describe(run: Recorder) -> None:
        run.dataset("posts", posts["train"].digest, config.train_csv or config.data_dir, "training")
        run.options(configuration.canonical(config))

    def work(run: Recorder | None, unfinished: after.Unfinished | None) -> dict[str, Any]:
        if run is not None:
            describe(run)
        if config.encoder == "tfidf":
            return reference.train(config, posts, key, run, unfinished) if run is not None else {}
        if config.head_variant == BLEND:
            return blend.train(config, posts, key, run, unfinished, trained)
        return PostsTraining(config, posts, run, key).result(unfinished)

    return execute.Job(key, work, describe, registers=config.register)


def key_of(config: OptimizeClipConfig, rows: dict[str, Posts] | None = None) -> str:
    """Return the stage key of a training: options that can change the result, and digests of posts and weight files."""
    rows, device = rows or materials.load_rows(config), precision.pick_device(config.gpu)
    found = {"data": materials.digest_of(rows)}
    return keys.of_stage(ENTRY_POINT, config, found, device, precision.mixed_precision(config.use_amp, device))


class PostsTraining(CheckpointedTraining):
    """One training of towers and head on posts: materials, task, and where it stands.

    Args:
        config: checked.
        rows: posts by part.
        run: the tracking run, None on ranks other than 0.
        key: the stage key; '' with a `work` folder of one's own.
        work: folder for checkpoints; None = that of the key.
    """

    resume_facts = ("head_variant", "modality", "class_names", "image_size", "cleaning", "towers", "data_digest")

    def __init__(self, config: OptimizeClipConfig, rows: dict[str, Posts], run: Recorder | None, key: str, work: Path | None = None):
        self.config, self.run, self.key = config, run, key
        self.m = materials.gather(config, rows)
        self.lineage = self.m.lineage
        net = materials.build_net(config, self.m.class_names)
        towers = {side: tower.digest() for side, tower in net.towers.items()}
        self.net = net.to(self.m.device).to(memory_format=torch.channels_last)
        self.never = tuple(tower for tower in net.towers.values() if tower.locked)
        sides = {"image": "visual", "text": "text"}
        self.pretrained = tuple(
            sides[side] for side in sides if config.modality in ("both", side) and materials.is_pretrained(config, side)
        )
        self.inputs = {part: self.m.inputs(self.net, part) for part in rows}
        self.task = self._task()
        self.scaler = precision.loss_scaler(self.m.device, self.m.number_format)
        self.facts = self._facts(towers)
        size = sum(p.nbytes for p in self.net.parameters() if p.requires_grad)
        self.work = work or self.open_work_folder(key, size, "training on posts")
        self.history: list[list[Any]] = []
        self.epoch = self.begin(config.resume, "resume")
        if run is not None and work is None:
            self._announce_texts()
            run.started()

    @property
    def stop(self) -> int:
        """The number of epochs."""
        return self.config.epochs

    def fit(self) -> None:
        """Train the epochs that are left."""
        c = self.config
        more = {"clip_norm": c.clip_norm, "scaler": self.scaler, "ended": self.exhausted}
        plan = self.plan(lambda epoch: c.lr * self.task.factor(epoch * self.task.steps), self.m, **more)
        fit(self.task, plan, self.finish_epoch)

    def exhausted(self) -> bool:
        """Say whether the best validation score is `early_stop` epochs old, kept as a checkpoint or not."""
        return self.stale(f"val/{checks.watched(self.config)}", self.config.early_stop)

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Return validation metrics after `epoch` finished epochs."""
        c, metrics = self.config, {}
        if epoch:  # what the head and towers from scratch trained with; `lr` is that of pretrained towers
            metrics["head_lr"] = c.head_lr * self.task.factor((epoch - 1) * self.task.steps)
        if self.config.logit_adjustment:
            metrics["tau"] = self._adjust()
        found = evaluate.metrics_of(self.m.rows["val"], self.probabilities("val"), self.m.class_counts)
        return metrics | {f"val/{name}": value for name, value in found.items()}

    def score(self, metrics: dict[str, float], epoch: int) -> float:
        """Return the validation metric that chooses the best epoch."""
        return float(epoch) if self.config.select_by == "last" else metrics[f"val/{self.config.select_by}"]

    def keep_every(self) -> int:
        """Return `save_freq`."""
        return self.config.save_freq

    @torch.no_grad()
    def logits(self, part: str) -> np.ndarray:
        """Return the logits (N, C) float32 of a part's posts as they are."""
        was_training, given, found = self.net.training, self.inputs[part], []
        self.net.eval()
        with precision.autocast(self.m.device, self.m.number_format):
            for start in range(0, len(given), _FORWARD_BATCH):
                rows = slice(start, start + _FORWARD_BATCH)
                text = None if given.text is None else given.text[rows].to(self.m.device)
                image = None if given.image is None else given.image[rows].to(self.m.device)
                if image is not None:
                    image = image[:, 0] if image.ndim == 3 else self.net.reading.normalise(image)
                found.append(self.net(text, image).float().cpu())
        self.net.train(was_training)
        return require_outputs(torch.cat(found).numpy(), f"{part} posts")

    def probabilities(self, part: str) -> np.ndarray:
        """Return (N, C) float64 of a part."""
        return softmax(self.logits(part))

    def state(self, epoch: int) -> states.TrainState:
        """Return what has trained so far, its optimiser and loss scale."""
        model = trained_state(self.net, self.pretrained, epoch, self.config, self.never)
        facts = self.facts | {"scaler": self.scaler.state_dict()}
        return states.TrainState(epoch, dict(model), self.task.optimizer.state_dict(), self.history, facts)

    def load_state(self, state: states.TrainState) -> None:
        """Take over weights, optimiser and loss scale."""
        self._put_starting_weights_back(state)
        self.net.load_part(state.model, "the checkpoint to resume from")
        self.task.become(state.epoch)
        self.task.optimizer.load_state_dict(state.optimizer)
        if state.facts.get("scaler"):
            self.scaler.load_state_dict(state.facts["scaler"])

    def weights(self) -> dict[str, Any]:
        """Return the network's weights by name."""
        return dict(self.net.state_dict())

    def restore_best(self) -> None:
        """Put the best epoch's weights back."""
        best = self.facts["best"]["epoch"]
        if self.has_checkpoint(best):
            self.load_state(states.load_checkpoint(self.work / "checkpoints" / states.checkpoint_name(best)))

    def predictor(self) -> TowersPredictor:
        """Return the classifier as it is now, on the CPU; low-rank changes are written into their weights."""
        net = self.net.cpu()
        for tower in net.towers.values():
            lora.merge(tower.body)
        predictor = TowersPredictor(net, publish.about_of(self.m, materials.build_arguments(self.config, net)))
        predictor.lineage = self.lineage
        return predictor

    def publish(self) -> dict[str, Any]:
        """Put the best epoch's model back, score it on validation and, once, on the test part, and store it; then draw, register, note."""
        summary = self.summarise()
        self.restore_best()
        summary["weights_digest"] = self.digest()
        best = self.facts["best"]["epoch"] or self.history[-1][0]
        found = {part: self.probabilities(part) for part in self.m.rows if part != "train"}
        metrics = publish.evaluated(self.m, found) | {"best_epoch": float(best)}
        self.recorder.metrics(metrics, self.history[-1][0])
        predictor = self.predictor()
        publish.write_predictor(self.work, predictor, metrics)
        title = f"{self.config.head_variant} head, {self.config.modality}: {len(self.m.rows['train'])} training posts, best epoch {best}"
        summary |= {"best_metrics": metrics, "model": "", "predictor": publish.PREDICTOR}
        tags = {"taxon.data": "posts", "taxon.select_by": self.config.select_by, "taxon.best_score": self.facts["best"]["score"]}
        steps = publish.steps(self.recorder, publish.Result(self.m, found, metrics, title), predictor.about, self.work)
        return self.publish_stage(summary, tags, steps)

    def _put_starting_weights_back(self, state: states.TrainState) -> None:
        """Undo what later epochs changed in towers that the checkpoint leaves to the weights they started from."""
        held = {name.partition(".")[0] for name in state.model}
        changed = [side for side in self.pretrained if side not in held and self.net.towers[side] not in self.never]
        if changed and self.history:
            started = materials.build_net(self.config, self.m.class_names)
            for side in changed:
                self.net.towers[side].load_state_dict(started.towers[side].state_dict())

    def _task(self) -> PostsTask:
        rows, c = self.m.rows["train"], self.config
        loss = PostLoss(c.loss, c.gamma, c.beta, torch.from_numpy(self.m.class_counts).to(self.m.device))
        labels = torch.from_numpy(rows.labels)
        return PostsTask(self.net, self.pretrained, loss, self.inputs["train"], labels, self.evaluate, c, self.m.device)

    def _adjust(self) -> float:
        """Choose tau on validation and make it part of the network; return it."""
        self.net.logit_bias.zero_()
        logits, rows = torch.from_numpy(self.logits("val")), self.m.rows["val"]
        counts = torch.from_numpy(self.m.class_counts)
        score = scorer(checks.watched(self.config), len(counts), self.m.class_counts)
        tau, _reached = choose_tau(logits, torch.from_numpy(rows.labels), counts, score, TAUS)
        self.net.logit_bias.copy_(adjustment(counts, tau))
        return tau

    def _facts(self, towers: dict[str, str]) -> dict[str, Any]:
        """Return what a checkpoint says of itself, enough to rebuild the network from it."""
        c = self.config
        return {
            "config": configuration.canonical(c),
            "data_digest": self.m.digest,
            "towers": towers,
            "head_variant": c.head_variant,
            "modality": c.modality,
            "image_size": c.image_size,
            "cleaning": c.cleaning,
            "class_names": list(self.m.class_names),
            "best": {"epoch": 0, "score": -1e9},
        }

    def _announce_texts(self) -> None:
        cut = {f"data/{part}_texts_cut": float(count) for part, count in self.m.cut.items()}
        if self.run is not None:
            self.run.metrics(cut, 0)
        total = sum(self.m.cut.values())
        if total:
            length = self.net.reading.tokenizer.context_length
            print(f"taxon: {total} texts are longer than {length} tokens and lose their end; context_length takes more", file=sys.stderr)


def trained(config: OptimizeClipConfig, rows: dict[str, Posts], folder: Path) -> PostsTraining:
    """Train towers on given rows in a folder of one's own; return the training with its best epoch's weights."""
    training = PostsTraining(config, rows, None, "", folder)
    training.fit()
    training.restore_best()
    return training


def predictor_of(config: OptimizeClipConfig, rows: dict[str, Posts], folder: Path) -> TowersPredictor | BlendPredictor:
    """Train on given rows in a folder of one's own and return the best epoch's classifier."""
    if config.head_variant == BLEND:
        return blend.predictor_of(config, rows, folder, trained)
    return trained(config, rows, folder).predictor()


def net_of(state: states.TrainState, path: Path) -> tuple[PostNet, OptimizeClipConfig]:
    """Rebuild the network of a checkpoint; its frozen towers come from the weights that the training named.

    Raises:
        UserError: no checkpoint of this family, weights that are gone or others, or a head of another kind.
    """
    if "head_variant" not in state.facts:
        raise UserError(f"checkpoint '{path}' is not one of {ENTRY_POINT}; give one that it wrote")
    config = configuration.fitted(OptimizeClipConfig, state.facts["config"])
    net = materials.build_net(config, tuple(state.facts["class_names"]))
    differing = [side for side, tower in net.towers.items() if tower.digest() != state.facts["towers"][side]]
    if differing:
        raise UserError(f"the {differing[0]} tower of '{path}' started from other weights than its options now give; restore that file")
    net.load_part(state.model, str(path))
    for tower in net.towers.values():
        lora.merge(tower.body)
    return net.eval(), config
