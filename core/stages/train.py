"""The training stage: from a configuration and a split to checkpoints, curves and the best model, resumable at any epoch."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core import config as configuration
from core import digest
from core.clustering import pseudo_labels
from core.data.loader import ViewLoader, sampling_weights
from core.errors import UserError
from core.evaluation import discovery
from core.evaluation import features as features_module
from core.models import sync_batch_norm
from core.stages import checks, feature_files, inputs
from core.stages import materials as materials_module
from core.stages.config import TrainConfig
from core.stages.materials import Materials
from core.training import distributed, optimizers, recipes, schedule
from core.training import state as states
from core.training.discovery import DiscoveryTask, make_targets
from core.training.loop import Plan, fit
from core.training.view_cache import CachedViews

ENTRY_POINT = "train_superclass"
# What a checkpoint must share with the training that continues it.
RESUME_FACTS = ("data_digest", "split_digest", "trunk_digest", "model_name", "image_size", "grad_from_block")


def run(config: TrainConfig, run: Any) -> dict[str, Any]:
    """Run `train_superclass`: one superclass, or all of them as child runs."""
    if config.train_all_superclasses:
        return _train_all(config, run)
    config = checks.check_training(recipes.resolve(config))
    if run is not None:
        run.params({f"resolved.{name}": value for name, value in configuration.canonical(config).items()})
    return train(config, run)


def _train_all(config: TrainConfig, run: Any) -> dict[str, Any]:
    from core.data.superclasses import SUPERCLASSES
    from core.tracking.run import open_child

    summaries = {}
    for superclass in SUPERCLASSES:
        name = superclass.name
        one = dataclasses.replace(config, train_all_superclasses=False, superclass_name=name)
        one = checks.check_training(recipes.resolve(one))
        with open_child(run.run_id, f"{ENTRY_POINT} {name} seed {config.seed}", ENTRY_POINT, {}) as child:
            summaries[name] = train(one, child)["metrics"]
    run.json(summaries, "summary.json")
    return summaries


def train(config: TrainConfig, run: Any) -> dict[str, Any]:
    """Train to `stop_at_epoch` (or `epochs`) and publish the result; return its summary.

    Args:
        config: resolved and checked.
        run: the tracking run, None on ranks other than 0.
    """
    distributed.start(torch.device("cpu") if config.gpu == "cpu" or not torch.cuda.is_available() else torch.device("cuda"))
    try:
        training = Training(config, run)
        training.fit()
        summary = training.publish() if run is not None else {}
    finally:
        distributed.stop()
    return summary


class Training:
    """One training: materials, model, optimiser, and where it stands.

    The order of resuming: newest valid checkpoint of this very stage in its work folder; else `resume_from_ckpt`; else the
    start (pretrained weights, `warmup_model_dir`).
    """

    def __init__(self, config: TrainConfig, run: Any):
        self.config, self.run = config, run
        loaded = materials_module.load_data(config)
        self.pseudo = self._read_pseudo_labels(*loaded)
        self.model, mean, std = materials_module.build_model(config)
        self.materials: Materials = materials_module.gather(config, mean, std, loaded)
        m = self.materials
        if distributed.world_size() > 1:
            self.model.tail = sync_batch_norm.convert(self.model.tail)
        self.model.to(m.device)
        self.optimizer = optimizers.build(config.optimizer, self.model.parameters(), config.lr, config.momentum, config.weight_decay)
        self.work, self.key = self._work_folder()
        self.facts = self._facts()
        self.history: list[list[Any]] = []
        self.epoch = self._start()
        self.extract_train, self.extract_test = m.extractors()
        if run is not None:
            run.dataset(m.data.name, m.data.digest, config.data_root, "training")
            run.started()

    @property
    def stop(self) -> int:
        """The number of finished epochs at which this stage ends."""
        return self.config.stop_at_epoch or self.config.epochs

    def fit(self) -> None:
        """Train the epochs that are left."""
        if self.epoch == 0 and not self.history and distributed.is_main():
            self.finish_epoch(0, self.evaluate(0))
        task = DiscoveryTask(self.model, self._loader(), self._targets(), self.config, self.evaluate, self.materials.device)
        plan = Plan(self.epoch, self.stop, self.lr, self.materials.device, self.materials.number_format, self.config.seed)
        fit(task, self.optimizer, plan, self.finish_epoch)

    def lr(self, epoch: int) -> float:
        """Return the learning rate of a global epoch."""
        return schedule.cosine(epoch, self.config.epochs, self.config.lr)

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Return the metrics of the model as it is, after `epoch` finished epochs."""
        m, config = self.materials, self.config
        train, test = self.features()
        found = discovery.cluster(m.data, m.split, train, test, len(m.data.class_names), config.seed)
        metrics = discovery.report(m.data, m.split, found, tuple(config.eval_funcs.split(",")))
        metrics |= discovery.label_free(m.data, m.split, found, train)
        if epoch in (0, self.config.epochs):
            metrics |= discovery.more_baselines(m.data, m.split, train, test, config.seed)
        return metrics

    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the L2-normalised evaluation features of training and test images."""
        return tuple(features_module.normalise(extract.extract(self.model)) for extract in (self.extract_train, self.extract_test))

    def finish_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Choose, save, then track: metrics are in the checkpoint before they are on their way to the store."""
        self.history.append([epoch, metrics])
        score = discovery.selection_score(metrics, self.config.select_by, epoch)
        if epoch > 0 and score > max(self.facts["best"]["score"], self.config.save_best_thresh):
            self.facts["best"] = {"epoch": epoch, "score": score}
        folder = self.work / "checkpoints"
        if epoch > 0:
            states.save_checkpoint(folder, self.state(epoch))
            states.prune(folder, self._kept)
        self.run.metrics(metrics, epoch)
        self.run.forward(metrics, epoch)

    def state(self, epoch: int) -> states.TrainState:
        """Return everything that continues this training after `epoch` finished epochs."""
        return states.TrainState(epoch, self.model.trainable_state(), self.optimizer.state_dict(), self.history, self.facts)

    def publish(self) -> dict[str, Any]:
        """Store checkpoints, configuration, curves and features as artifacts with a manifest; clear the work folder."""
        from core.tracking import stage

        folder, run = self.work, self.run
        (folder / "config.json").write_text(json.dumps(configuration.canonical(self.config), indent=1, sort_keys=True) + "\n")
        inputs.draw_curves(self.history, folder / "plots" / "curves.png")
        if self.config.save_features_and_exit:
            train, test = self.features()
            feature_files.write(folder / "features", self.materials, train, test, self.facts, self._digest(), use_l2=True)
        last, best = states.checkpoint_name(self.stop), self.facts["best"]
        summary = {
            "epoch": self.stop,
            "checkpoint": f"checkpoints/{last}",
            "best": best,
            "best_checkpoint": f"checkpoints/{states.checkpoint_name(best['epoch'])}" if self._has(best["epoch"]) else "",
            "weights_digest": self._digest(),
            "metrics": self.history[-1][1],
            "history": self.history,
        }
        run.tags(
            {
                stage.KEY_TAG: self.key,
                "taxon.data": self.materials.data.name,
                "taxon.seed": str(self.config.seed),
                "taxon.weights_digest": summary["weights_digest"],
                "taxon.select_by": self.config.select_by,
                "taxon.best_score": discovery.selection_score(self._metrics_at(best["epoch"]), "score", best["epoch"]),
                "taxon.best_checkpoint": summary["best_checkpoint"],
            }
        )
        stage.publish(run, folder, summary, keep=lambda path: not path.name.startswith("."))
        shutil.rmtree(folder, ignore_errors=True)
        return summary

    def _metrics_at(self, epoch: int) -> dict[str, float]:
        return next((metrics for at, metrics in self.history if at == epoch), self.history[-1][1])

    def _digest(self) -> str:
        return states.weights_digest(self.model.trainable_state())

    def _has(self, epoch: int) -> bool:
        return (self.work / "checkpoints" / states.checkpoint_name(epoch)).is_file()

    def _kept(self, epoch: int) -> bool:
        """Keep last, the one before it (should the last be damaged), best, and every `save_ckpt_every`-th."""
        every = self.config.save_ckpt_every
        newest = self.history[-1][0]
        finished = newest == self.stop
        return (
            epoch in (newest, self.facts["best"]["epoch"]) or (epoch == newest - 1 and not finished) or bool(every and epoch % every == 0)
        )

    def _read_pseudo_labels(self, data: Any, split: Any) -> pseudo_labels.PseudoLabels | None:
        if not self.config.pseudo_labels_path:
            return None
        path = inputs.file_at(self.config.pseudo_labels_path, "pseudo_labels_path", "*.npz")
        pseudo = pseudo_labels.read(path)
        pseudo_labels.check_origin(pseudo, data.digest, split.digest, str(path))
        return pseudo

    def _work_folder(self) -> tuple[Path, str]:
        from core.tracking import stage, store

        m = self.materials
        key = inputs.train_key(self.config, m.data.digest, m.split.digest, m.device, m.number_format)
        folder = stage.work_folder(key)
        trained = sum(p.nbytes for p in self.model.parameters() if p.requires_grad)
        store.require_space(folder, 12 * trained + (64 << 20), f"training {self.config.model_name}")
        return folder, key

    def _facts(self) -> dict[str, Any]:
        """Return what a checkpoint says of itself, enough to rebuild the model from it."""
        m, config = self.materials, self.config
        return {
            "config": configuration.canonical(config),
            "data": m.data.name,
            "data_digest": m.data.digest,
            "split_digest": m.split.digest,
            "trunk_digest": self.model.trunk_digest,
            "model_name": config.model_name,
            "image_size": config.image_size,
            "grad_from_block": config.grad_from_block,
            "class_names": list(m.data.class_names),
            "known_classes": sorted(m.data.known_classes),
            "mean": list(m.spec.mean),
            "std": list(m.spec.std),
            "resize": m.spec.resize,
            "first_pseudo_epoch": None,
            "best": {"epoch": 0, "score": -1e9},
        }

    def _start(self) -> int:
        found = states.newest_valid(self.work / "checkpoints") if distributed.is_main() else None
        state = found[1] if found else None
        if state is None and self.config.resume_from_ckpt and distributed.is_main():
            state = states.load_checkpoint(inputs.checkpoint_at(self.config.resume_from_ckpt, "resume_from_ckpt"))
        state = distributed.from_main(state)
        if state is None:
            self._warm_up()
        else:
            self._restore(state)
        if self.pseudo is not None and self.facts["first_pseudo_epoch"] is None:
            self.facts["first_pseudo_epoch"] = state.epoch if state else 0
        return state.epoch if state else 0

    def _restore(self, state: states.TrainState) -> None:
        differing = [name for name in RESUME_FACTS if state.facts.get(name) != self.facts[name]]
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
        self.model.load_trainable_state(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        torch.set_rng_state(state.rng)
        self.history = state.history
        self.facts |= {name: state.facts[name] for name in ("first_pseudo_epoch", "best")}
        if self.run is not None:
            for epoch, metrics in self.history:
                self.run.metrics(metrics, epoch)
                self.run.forward(metrics, epoch)

    def _warm_up(self) -> None:
        if self.config.warmup_model_dir:
            state = states.load_checkpoint(inputs.checkpoint_at(self.config.warmup_model_dir, "warmup_model_dir"))
            self.model.load_trainable_state(state.model)

    def _targets(self) -> Any:
        m = self.materials
        return make_targets(m.data.train.labels, m.split.labelled, self.pseudo, self.config, self.facts["first_pseudo_epoch"])

    def _loader(self) -> Any:
        m, config = self.materials, self.config
        loader = ViewLoader(
            m.train_images,
            m.spec,
            config.batch_size,
            config.n_views,
            sampling_weights(m.split.labelled, m.split.unlabelled, len(m.data.train)),
            config.seed,
            distributed.rank(),
            distributed.world_size(),
            max(1, min(config.num_workers, 4)),
        )
        if not config.view_cache:
            return loader
        return CachedViews(loader, self.model, config.view_cache, m.device, m.autocast, self._view_cache_file())

    def _view_cache_file(self) -> Path:
        """Return where the cached views lie: named by all that they depend on."""
        from core.tracking.store import cache_home

        m, config = self.materials, self.config
        parts = {
            "trunk": self.model.trunk_digest,
            "data": m.data.digest,
            "views": dataclasses.asdict(m.spec),
            "seed": config.seed,
            "cached": config.view_cache,
            "environment": materials_module.environment(config, m.device, m.number_format),
        }
        return cache_home() / "views" / f"{digest.of_json(parts)[:32]}.safetensors"
