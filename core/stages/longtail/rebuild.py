"""A trained classifier from its checkpoint: the checkpoint says what it was trained with; only where things lie may differ."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core import config as configuration
from core.data.classification import Attribute, ClassificationData
from core.errors import UserError
from core.lineage import Lineage
from core.models.classifiers import Classifier
from core.stages import inputs
from core.stages.longtail import materials
from core.stages.longtail.config import LongtailData, LongtailEvaluateConfig, LongtailTrainConfig
from core.tracking import uri
from core.training import state as states
from core.training import timeline


@dataclass
class Trained:
    """A checkpoint, read: its scored model, the image size it was trained on, and the data to evaluate it on."""

    path: Path
    epoch: int
    size: int
    model: Classifier
    m: materials.Materials
    lineage: Lineage


@dataclass(frozen=True, eq=False)
class EvaluatedData(ClassificationData):
    """Data to evaluate a model on; which classes are rare is what its training saw."""

    trained_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def class_counts(self) -> np.ndarray:
        """(C,) int64 number of images of each class that the model was trained on."""
        return self.trained_counts


def open_checkpoint(config: LongtailEvaluateConfig) -> Trained:
    """Rebuild the scored model of `config.checkpoint` and load the data that `config` names (else the training's own).

    Raises:
        UserError: no checkpoint, none of a long-tail training, other classes, or a backbone other than the trained one.
    """
    path = _best_of(config.checkpoint)
    state = states.load_checkpoint(path)
    if "class_counts" not in state.facts:
        raise UserError(f"checkpoint '{path.name}' is not one of train_longtail; give one that it wrote")
    names = {f.name for f in dataclasses.fields(LongtailTrainConfig)}
    trained = trained_config(state)
    given = {f.name: getattr(config, f.name) for f in dataclasses.fields(LongtailEvaluateConfig) if f.name in names}
    places = {name: value for name, value in given.items() if value != "" and name != "seed"}
    if config.data_root:  # then nothing is where the training found it, folder by folder
        places |= {f.name: given[f.name] for f in dataclasses.fields(LongtailData)}
    data = materials.load_data(dataclasses.replace(trained, **places))
    data = _same_classes(data, state.facts, path)
    merged = dataclasses.replace(trained, **places)
    model, about = scored_model(merged, data, state, path.name)
    m = materials.gather(merged, data, tuple(about["mean"]), tuple(about["std"]))
    size = timeline.phase_at(trained, state.epoch - 1).image_size
    return Trained(path, state.epoch, size, model.to(m.device).eval(), m, state.lineage)


def trained_config(state: states.TrainState) -> LongtailTrainConfig:
    """Return the configuration that a checkpoint was trained with: its schedule says what the epoch was like."""
    never_split = {"val_share": 0.0}  # trainings of before there was the option
    return configuration.fitted(LongtailTrainConfig, never_split | state.facts["config"])


def scored_model(config: LongtailTrainConfig, data: ClassificationData, state: states.TrainState, name: str) -> tuple[Classifier, dict]:
    """Return, on the CPU, the model that was scored at checkpoint `name`, and the facts of its backbone.

    A checkpoint of a frozen phase leaves (part of) the backbone to its initial weights, which are built anew here; those of a
    training that has gone on since are others.

    Raises:
        UserError: the initial weights are no longer those of the training.
    """
    partly = timeline.widest(config, state.epoch) != "all"
    model, about = materials.build_model(config, data, pretrained=config.pretrained and partly)
    if partly and about["backbone"] != state.facts["backbone_digest"]:
        raise UserError(f"the frozen backbone of '{name}' is not what '{config.weights or config.backbone}' holds; give its weights")
    if timeline.phase_at(config, state.epoch - 1).cosine:
        model.to_cosine()
    prefix = "average." if config.use_ema else "model."
    weights = {name.removeprefix(prefix): value for name, value in state.model.items() if name.startswith(prefix)}
    model.load_state_dict(weights, strict=not partly)
    return model, about


def _best_of(given: str) -> Path:
    """Return the checkpoint that is meant: of a run or its folder, the best one that its summary names."""
    if not given:
        raise UserError("checkpoint is empty; give the checkpoint to evaluate (a path, or runs:/<id>)")
    folder = uri.resolve(given, "checkpoint")
    summary = folder / "summary.json"
    if folder.is_dir() and summary.is_file():
        best = json.loads(summary.read_text()).get("best_checkpoint", "")
        if best and (folder / best).is_file():
            return folder / best
    return inputs.checkpoint_at(given, "checkpoint")


def _same_classes(data: ClassificationData, facts: dict[str, Any], path: Path) -> ClassificationData:
    """Return the data with the training's class counts and attributes; its classes have to be the same."""
    if list(data.class_names) != facts["class_names"]:
        differing = sorted(set(data.class_names) ^ set(facts["class_names"])) or ["their order"]
        raise UserError(f"the classes of '{path.name}' are not those of the images given: {', '.join(differing[:3])} differs")
    attributes = {name: Attribute(tuple(names), np.array(of_class)) for name, (names, of_class) in facts["attributes"].items()}
    kept = {f.name: getattr(data, f.name) for f in dataclasses.fields(data)} | {"attributes": attributes}
    return EvaluatedData(**kept, trained_counts=np.array(facts["class_counts"]))
