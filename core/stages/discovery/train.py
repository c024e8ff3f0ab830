"""The training stage: from a configuration and a split to checkpoints, curves and the best model, resumable at any epoch."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from core import config as configuration
from core import lineage
from core.clustering import pseudo_labels
from core.data.problem import NOBODY_SAID, Posed
from core.errors import UserError
from core.evaluation import discovery
from core.evaluation import features as features_module
from core.evaluation.gcd import VERSIONS
from core.models import sync_batch_norm
from core.models.cosine_classifier import CosineClassifier
from core.models.discovery import PROTOTYPES
from core.stages import after, execute, held_out, inputs, keys, leakage
from core.stages.checkpointed import CheckpointedTraining
from core.stages.discovery import checks, feature_files, training_note, view_loader
from core.stages.discovery import materials as materials_module
from core.stages.discovery.config import TrainConfig
from core.stages.discovery.materials import Materials
from core.stages.discovery.stages import TRAIN_SUPERCLASS
from core.tracking.recorder import Recorder
from core.training import distributed, optimizers, precision, recipes, schedule
from core.training import state as states
from core.training.discovery import DiscoveryTask, make_targets
from core.training.finite import require_outputs
from core.training.loop import fit

ENTRY_POINT = TRAIN_SUPERCLASS.name


def run(config: TrainConfig, run: Recorder | None) -> dict[str, Any]:
    """Run `train_superclass`: one superclass, or all of them as child runs; what has been trained before is not trained again."""
    if not config.train_all_superclasses:
        config = checks.check_training(recipes.resolve(config))
    with distributed.joined(config.gpu):
        return _train_all(config, run) if config.train_all_superclasses else execute.command(begin(config), run)


def train(config: TrainConfig, run: Recorder | None) -> dict[str, Any]:
    """Train to `stop_at_epoch` (or `epochs`) and publish the result; return its summary.

    Args:
        config: resolved and checked.
        run: the tracking run, None on ranks other than 0.
    """
    with distributed.joined(config.gpu):
        return execute.once(begin(config), run)


def begin(config: TrainConfig) -> execute.Job:
    """Read the data of a resolved and checked configuration; the key of its training says whether it has been done before."""
    loaded = materials_module.posed(config)
    data, key = loaded.data, _key(config, loaded)

    def describe(run: Recorder) -> None:
        run.dataset(data.name, data.digest, config.data_root, "training")
        run.options(configuration.canonical(config))

    def work(run: Recorder | None, unfinished: after.Unfinished | None) -> dict[str, Any]:
        return Training(config, run, loaded, key).result(unfinished)

    return execute.Job(key, work, describe, lambda metrics: discovery.shown(metrics, config.eval_funcs))


def _train_all(config: TrainConfig, run: Recorder | None) -> dict[str, Any]:
    from core.data.superclasses import SUPERCLASSES

    # One class alone is nothing to tell apart: trained by itself, it is refused.
    several = [one for one in SUPERCLASSES if len(one.known) + len(one.novel) > 1]
    names, few = [one.name for one in several], min(several, key=lambda one: len(one.known))
    if config.hidden_classes >= len(few.known):
        raise UserError(
            f"hidden_classes = {config.hidden_classes}, but {few.name} has {len(few.known)} labelled classes, of which one must stay; "
            f"use {len(few.known) - 1} at most, or train without train_all_superclasses"
        )
    summaries = {}
    for name in names:
        title = f"{ENTRY_POINT} {name} seed {config.seed}"
        done = execute.below(execute.Child(TRAIN_SUPERCLASS, _of_superclass(config, name), title, begin, label=name), run)
        summaries[name] = {} if done is None else done.finished.summary["metrics"]
    if run is not None:
        run.json(summaries, "summary.json")
    return summaries


def _of_superclass(config: TrainConfig, name: str) -> TrainConfig:
    return checks.check_training(recipes.resolve(dataclasses.replace(config, train_all_superclasses=False, superclass_name=name)))


def _key(config: TrainConfig, loaded: Posed) -> str:
    device = precision.pick_device(config.gpu)
    number_format = precision.resolve_precision(config.precision, device)
    return keys.of_stage(ENTRY_POINT, config, materials_module.digests(loaded), device, number_format)


class Training(CheckpointedTraining):
    """One training of discovery, from pretrained weights or from `warmup_model_dir`.

    Args:
        config: resolved and checked.
        run: the tracking run, None on ranks other than 0.
        loaded, key: data, split and truth, and the stage key, for whoever has them already.
    """

    resume_facts = ("data_digest", "split_digest", "trunk_digest", "model_name", "image_size", "grad_from_block")
    carried_facts = ("first_pseudo_epoch", "best")

    def __init__(self, config: TrainConfig, run: Recorder | None, loaded: Posed | None = None, key: str = ""):
        self.config, self.run = config, run
        loaded = loaded or materials_module.posed(config)
        data, split, self.truth = loaded
        self.lineage = leakage.admit(config, _parts(config, data, split))
        self.pseudo = self._read_pseudo_labels(data, split)
        self.model, mean, std = materials_module.build_model(config)
        self.materials: Materials = materials_module.gather(config, mean, std, (data, split))
        m = self.materials
        if distributed.world_size() > 1:
            self.model.tail = sync_batch_norm.convert(self.model.tail)
        self.model.to(m.device)
        self.view_cache = view_loader.views_to_keep(config, m, self.model)
        self.extract_train, self.extract_test = m.extractors()
        self.key = key or _key(config, loaded)
        trained = sum(p.nbytes for p in self.model.parameters() if p.requires_grad)
        self.work = self.open_work_folder(self.key, trained, f"training {config.model_name}")
        self.facts = self._facts()
        self.history: list[list[Any]] = []
        resume_from = config.resume_from_ckpt, "resume_from_ckpt"
        state = self.newest(*resume_from)
        self.warmed = self._warm_up() if state is None else None
        before = state or self.warmed
        if before is not None:  # all but the classifier, of which there may have to be another one, made from these weights
            self.model.load_trainable_state({name: value for name, value in before.model.items() if name != PROTOTYPES})
        if config.objective in recipes.WITH_CLASSIFIER:
            n = self._n_classes(before)
            self.model.classifier = CosineClassifier(self.model.feature_dim, n, config.seed).to(m.device)
        lr, weight_decay = recipes.settled(config.lr), recipes.settled(config.weight_decay)
        self.optimizer = optimizers.build(config.optimizer, self.model.parameters(), lr, config.momentum, weight_decay)
        self.epoch = self.start(state, *resume_from)
        if self.pseudo is not None and self.facts["first_pseudo_epoch"] is None:
            self.facts["first_pseudo_epoch"] = self.epoch
        if run is not None:
            run.dataset(m.data.name, m.data.digest, config.data_root, "training")
            run.options(configuration.canonical(config))
            run.started()

    @property
    def stop(self) -> int:
        """The number of finished epochs at which this stage ends."""
        return self.config.stop_at_epoch or self.config.epochs

    def fit(self) -> None:
        """Train the epochs that are left."""
        if self.epoch == 0 and not self.history and distributed.is_main():
            self.finish_epoch(0, self.evaluate(0))
        device = self.materials.device
        own = self.model, self._loader(), self._targets(self.epoch), self.config, self.evaluate, device, self.optimizer
        task = DiscoveryTask(*own, targets_of=self._targets if self.config.pseudo_points in recipes.COVERED else None)
        fit(task, self.plan(self.lr, self.materials), self.finish_epoch)

    def lr(self, epoch: int) -> float:
        """Return the learning rate of a global epoch."""
        return schedule.cosine(epoch, self.config.epochs, self.config.lr)

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Return the metrics of the model as it is, after `epoch` finished epochs."""
        m, config = self.materials, self.config
        train, test = self.features()
        ends = epoch in (0, config.epochs)
        estimated = materials_module.n_settled(config, m.data) is None
        count = discovery.count_classes(m.data, m.split, train, config.seed) if ends or estimated else None
        n = materials_module.n_clusters(config, m.data, m.split, train, count)
        found = discovery.cluster(m.data, m.split, train, test, n, config.seed)
        metrics = discovery.report(self.truth, m.split, found, VERSIONS) | {"n_clusters": float(n)}
        metrics |= discovery.label_free(m.data, m.split, found, train) | discovery.hidden_found(m.data, m.split, found)
        metrics |= self._otherwise(train, test, n)
        if count is not None and ends:
            others = discovery.baselines(m.data, m.split, train, test, n, config.seed, count)
            metrics |= discovery.report_baselines(self.truth, m.split, others)
        return metrics

    def _otherwise(self, train: np.ndarray, test: np.ndarray, n_clusters: int) -> dict[str, float]:
        """Return the figures of the classifier's own answers, where there is one, and of clusters of centred features."""
        m = self.materials
        centred_train, centred_test = discovery.centred(m.split, train, test)
        centred = discovery.cluster(m.data, m.split, centred_train, centred_test, n_clusters, self.config.seed)
        metrics = discovery.report(self.truth, m.split, centred, ("v2",), "centred/")
        prototypes = self.model.prototypes
        if prototypes is None:
            return metrics
        answered = discovery.classify(m.data, m.split, train, test, prototypes)
        metrics |= discovery.report(self.truth, m.split, answered, ("v2",), discovery.BY_CLASSIFIER)
        label_free = discovery.label_free(m.data, m.split, answered, train) | discovery.hidden_found(m.data, m.split, answered)
        return metrics | {f"{discovery.BY_CLASSIFIER}{name}": value for name, value in label_free.items()}

    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the L2-normalised evaluation features of training and test images."""
        found = ((part, extract.extract(self.model)) for part, extract in (("training", self.extract_train), ("test", self.extract_test)))
        train, test = (features_module.normalise(require_outputs(values, f"{part} images")) for part, values in found)
        return train, test

    def shown(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return the metrics without the versions of accuracy that `eval_funcs` does not name: it is in no stage key."""
        return discovery.shown(metrics, self.config.eval_funcs)

    def score(self, metrics: dict[str, float], epoch: int) -> float:
        """Return the number by which the best epoch is chosen."""
        return discovery.selection_score(discovery.of_answer(metrics, self.config.answers_by), self.config.select_by, epoch)

    def state(self, epoch: int) -> states.TrainState:
        """Return everything that continues this training after `epoch` finished epochs."""
        return states.TrainState(epoch, self.model.trainable_state(), self.optimizer.state_dict(), self.history, self.facts)

    def load_state(self, state: states.TrainState) -> None:
        """Take over classifier and optimiser; a classifier of another number of classes, or none, is made anew from these weights."""
        told = state.facts.get("config", {}).get("labels", "given")
        if told != self.config.labels:
            raise UserError(
                f"the checkpoint to resume from was trained with labels = {told}, not {self.config.labels}; give one of this kind"
            )
        if self._take_classifier(state):
            self.optimizer.load_state_dict(state.optimizer)
        else:
            optimizers.load_without_last(self.optimizer, state.optimizer)

    def start_fresh(self) -> None:
        """Take the classifier of the training to start from, where it is of these very images and labels; else make one anew."""
        if self.warmed is None or not self._is_of_these(self.warmed):
            self._place_prototypes()
        else:
            self._take_classifier(self.warmed)

    def _warm_up(self) -> states.TrainState | None:
        """Return the checkpoint of another training whose weights are the starting point, where one is given."""
        place = self.config.warmup_model_dir
        return states.load_checkpoint(inputs.checkpoint_at(place, "warmup_model_dir")) if place else None

    def _is_of_these(self, state: states.TrainState) -> bool:
        """Say whether a checkpoint's classes are those of this training: it learnt from the same images with the same labels."""
        same = all(state.facts.get(name) == self.facts[name] for name in ("data_digest", "split_digest"))
        return same and state.facts.get("config", {}).get("labels", "given") == self.config.labels

    def _take_classifier(self, state: states.TrainState) -> bool:
        """Take over the classifier, or make one anew; say whether the state has what trains here, no more and no less.

        All other weights of the state are in the model since it was built.
        """
        given = state.model.get(PROTOTYPES)
        if self.model.classifier is None:
            return given is None
        if given is None or given.shape != self.model.classifier.prototypes.shape:
            self._place_prototypes()
            return False
        self.model.classifier.load_state_dict({"prototypes": given})
        return True

    def _n_classes(self, before: states.TrainState | None) -> int:
        """Return how many classes the classifier tells apart: asked for, declared, those of the pseudo labels, or estimated.

        An estimate is made once: a training that goes on from another of the same images keeps its number until pseudo labels say more.

        Args:
            before: the checkpoint that the training starts from.
        """
        m, config = self.materials, self.config
        if config.labels == "all":
            return len(np.unique(self.truth.train[self._labelled]))
        settled = materials_module.n_settled(config, m.data)
        if settled is not None:
            return settled
        if self.pseudo is not None:
            return len(self.pseudo.prototypes)
        if before is not None and PROTOTYPES in before.model and self._is_of_these(before):
            return len(before.model[PROTOTYPES])
        train, _test = self.features()
        return materials_module.n_clusters(config, m.data, m.split, train)

    def _place_prototypes(self) -> None:
        """Start the classifier, where there is one, at the clusters that the evaluation makes of the features as they are."""
        if self.model.classifier is None:
            return
        m, prototypes = self.materials, self.model.classifier.prototypes
        train, test = self.features()
        found = discovery.cluster(m.data, m.split, train, test, len(prototypes), self.config.seed)
        with torch.no_grad():
            prototypes.copy_(functional.normalize(torch.from_numpy(found.result.centres), dim=1))

    def weights(self) -> dict[str, Any]:
        """Return what trains, by name."""
        return self.model.trainable_state()

    def publish(self) -> dict[str, Any]:
        """Store checkpoints, configuration and, if asked for, features; then draw and note."""
        if self.config.save_features_and_exit:
            train, test = self.features()
            feature_files.write(self.work / "features", self.materials, train, test, self.facts, self.digest(), use_l2=True)
        summary = self.summarise()
        best, config = summary["chosen"]["epoch"], self.config
        tags = {
            **materials_module.origin_tags(self.materials.data, config),
            "taxon.select_by": "oracle" if config.labels == "all" else config.select_by,
            "taxon.view_cache": self.view_cache,
            "taxon.best_score": discovery.selection_score(discovery.of_answer(self.metrics_at(best), "auto"), "score", best),
        }
        return self.publish_stage(
            summary, tags, after.Steps({}, lambda _summary: training_note.markdown(config, self.materials, self.history, best))
        )

    def _read_pseudo_labels(self, data: Any, split: Any) -> pseudo_labels.PseudoLabels | None:
        if not self.config.pseudo_labels_path:
            return None
        path = inputs.file_at(self.config.pseudo_labels_path, "pseudo_labels_path", "*.npz")
        pseudo = pseudo_labels.read(path)
        pseudo_labels.check_origin(pseudo, data.digest, split.digest, str(path))
        return pseudo

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
            "class_names": [*m.data.known_names, *m.data.novel_names],
            "known_classes": list(range(len(m.data.known_names))),
            "mean": list(m.spec.mean),
            "std": list(m.spec.std),
            "resize": m.spec.resize,
            "view_cache": self.view_cache,
            "first_pseudo_epoch": None,
            "best": {"epoch": 0, "score": -1e9},
        }

    def _targets(self, epoch: int = 0) -> Any:
        m = self.materials
        if self.config.labels == "all":
            return make_targets(self._all_classes(), self._labelled, None, self.config, None)
        first = self.facts["first_pseudo_epoch"]
        return make_targets(m.data.train.labels, m.split.labelled, self.pseudo, self.config, first, epoch)

    def _all_classes(self) -> np.ndarray:
        """The true classes (N,) in the order in which a classifier's are read: those with labelled images, then the others."""
        classes, m = self.truth.known_first, self.materials
        shown = np.unique(m.data.train.labels[m.split.labelled])
        order = np.concatenate([shown, np.setdiff1d(classes[classes != NOBODY_SAID], shown)])
        number = np.full(order.max() + 2, NOBODY_SAID, np.int64)  # one more: NOBODY_SAID is the last
        number[order] = np.arange(len(order))
        return number[classes]

    @property
    def _labelled(self) -> np.ndarray:
        """The training images whose class the training is told: of a ceiling all that are not held out and whose class is known."""
        split = self.materials.split
        if self.config.labels == "given":
            return split.labelled
        used = np.sort(np.concatenate([split.labelled, split.unlabelled]))
        return used[self.truth.train[used] != NOBODY_SAID]

    def _loader(self) -> Any:
        return view_loader.make(self.config, self.materials, self.model, self._labelled, self.view_cache)


def _parts(config: TrainConfig, data: Any, split: Any) -> leakage.Parts:
    """Return the images of a training by what it does with them; a ceiling learns the classes of unlabelled ones, too."""
    parts = parts_of(data, split)
    if config.labels == "given":
        return parts
    return dataclasses.replace(parts, train=[*parts.train, *parts.unlabelled], unlabelled=())


def parts_of(data: Any, split: Any) -> leakage.Parts:
    """Return the images of a discovery by what a training does with them."""
    train, test = (held_out.contents(images, np.arange(len(images))) for images in (data.train, data.test))
    pick = {name: [(train[i],) for i in getattr(split, name)] for name in ("labelled", "validation", "unlabelled")}
    return leakage.Parts(pick["labelled"], pick["validation"], lineage.items_of(test), pick["unlabelled"])
