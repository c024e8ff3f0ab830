"""A trained model from its checkpoint: the checkpoint says what it was trained with; only where things lie may differ."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import config as configuration
from core import digest
from core.data.image_table import DEFAULT_ROOT
from core.data.problem import Posed, Problem, Truth
from core.data.splits import Split
from core.errors import UserError
from core.models.cosine_classifier import CosineClassifier
from core.models.discovery import PROTOTYPES, DiscoveryModel
from core.stages import inputs, keys
from core.stages.discovery import materials
from core.stages.discovery.config import DataOptions, ModelOptions, TrainConfig
from core.stages.discovery.materials import Materials
from core.training import state as states


@dataclass
class Trained:
    """A checkpoint, read: its file, state, configuration, data and split."""

    path: Path
    state: states.TrainState
    config: TrainConfig
    data: Problem
    split: Split

    @property
    def digest(self) -> str:
        """sha256 of what features of this model depend on, besides data and number format."""
        model = {name: getattr(self.config, name) for name in configuration.names_of(ModelOptions, "")}
        return digest.of_json([states.weights_digest(self.state.model), self.facts["trunk_digest"], model])

    @property
    def digests(self) -> dict[str, str]:
        """What stands for this checkpoint, its images and its backbone in the key of a stage that reads it."""
        found = {"checkpoint": self.digest, "data": self.data.digest, "split": self.split.digest}
        return found | {"weights": keys.of_weights(self.config)}

    @property
    def facts(self) -> dict[str, Any]:
        """What the checkpoint says of itself."""
        return self.state.facts

    def model(self) -> tuple[DiscoveryModel, Materials]:
        """Build the model with its trained weights, on its device, and the materials it works on."""
        model, mean, std = materials.build_model(self.config)
        if model.trunk_digest != self.facts["trunk_digest"]:
            raise UserError(
                f"the frozen backbone of '{self.path.name}' is not what '{self.config.weights or self.config.model_name}' holds; "
                "give the weights it was trained with"
            )
        if PROTOTYPES in self.state.model:
            model.classifier = CosineClassifier(model.feature_dim, len(self.state.model[PROTOTYPES]))
        model.load_trainable_state(self.state.model)
        m = materials.gather(self.config, mean, std, (self.data, self.split))
        return model.to(m.device), m


def open_checkpoint(uri: str, option: str, config: Any, loaded: Posed | None = None) -> Trained:
    """Read a checkpoint and the data set and split it was trained on; see `open_for_report`."""
    return open_for_report(uri, option, config, loaded)[0]


def open_for_report(uri: str, option: str, config: Any, loaded: Posed | None = None) -> tuple[Trained, Truth]:
    """Read a checkpoint and the data set and split it was trained on; with the truth apart, for figures.

    `config` (a CacheConfig or SsddbcConfig) may say where the data and weights lie now, and how the machine is used; options that
    contradict the checkpoint's data set or split raise UserError. `loaded` spares reading the images again.
    """
    if not uri:
        raise UserError(f"{option} is empty; give the checkpoint to use (a path, or runs:/<id>/checkpoints)")
    path = inputs.checkpoint_at(uri, option)
    state = states.load_checkpoint(path)
    trained = configuration.fitted(TrainConfig, state.facts["config"])
    names = configuration.names_of(DataOptions, "")
    for f in dataclasses.fields(config):
        if f.name not in names:
            continue
        given, stored = getattr(config, f.name), getattr(trained, f.name)
        if given not in (f.default, stored):
            raise UserError(
                f"{f.name} = {given}, but the checkpoint '{path.name}' was trained with {stored}; give the checkpoint of {given}"
            )
    merged = dataclasses.replace(trained, **_changes(config))
    data, split, truth = loaded or materials.posed(merged)
    for name, found in (("data_digest", data.digest), ("split_digest", split.digest)):
        if found != state.facts[name]:
            raise UserError(f"the images in data_root = '{merged.data_root}' are not those the checkpoint was trained on ({name} differs)")
    return Trained(path, state, merged, data, split), truth


def places_of(config: Any) -> dict[str, str]:
    """Return where data and weights lie for a command that gives all of its options, as `open_checkpoint` takes them.

    A checkpoint of a reused stage names where they lay for the command that made it. Full paths: the default `data` would stand for
    those.
    """
    places = {name: str(Path(getattr(config, name)).expanduser().resolve()) for name in ("data_root", "images") if getattr(config, name)}
    if config.images and config.data_root in DEFAULT_ROOT:  # nobody has given it: paths are below the table's folder
        places["data_root"] = config.data_root
    return {"data_root": "", "images": "", **places, "weights": keys.weights_file(config)}


def _changes(config: Any) -> dict[str, Any]:
    """Return what `config` says of places and of the machine; options left at `auto` stay as the checkpoint was trained."""
    changes = {
        "download": config.download,
        "num_workers": config.num_workers,
        "gpu": config.gpu,
        "resume_from_ckpt": "",
        "pseudo_labels_path": "",
        "warmup_model_dir": "",
    }
    changes |= {name: getattr(config, name) for name in ("data_root", "images") if getattr(config, name) != _default(name)}
    if config.weights:
        changes["weights"] = config.weights
    return changes | {name: getattr(config, name) for name in ("image_size", "threads", "precision") if getattr(config, name) != "auto"}


def _default(name: str) -> Any:
    return next(f.default for f in dataclasses.fields(DataOptions) if f.name == name)
