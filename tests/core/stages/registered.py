"""Tiny registered models: class means of an untrained network's features as clusters; their quality is which names these carry."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from core.data.views import ViewSpec, evaluation_view, resize_all
from core.lineage import NOTHING
from core.models import backbones
from core.models.discovery import DiscoveryModel
from core.models.heads import ProjectionHead
from core.serving import discovery as serving
from core.serving.images import example
from core.stages import held_out
from core.stages.discovery import register
from core.stages.discovery.config import DataOptions
from core.stages.discovery.materials import load_data, posed
from core.tracking import registry
from core.tracking import run as tracking

NAME = "taxon-discovery-glyphs"
GOOD, FAIR, BAD = ("bar", "cross", "dot"), ("bar", "bar", "dot"), ("dot", "bar", "cross")
SPEC = ViewSpec(image_size=12, resize=14)


def options(images: Path, **changes: Any) -> DataOptions:
    """Return the data options of a training on tiny images: half of the labelled ones are held out."""
    given = {
        "dataset": "folder",
        "data_root": str(images),
        "novel_classes": "ring",
        "prop_train_labels": 0.8,
        "val_fraction": 0.5,
        "seed": 1,
    }
    return DataOptions(**given | changes)


@torch.no_grad()
def features(model: DiscoveryModel, source: Any, indices: np.ndarray) -> torch.Tensor:
    views = evaluation_view(resize_all(source, SPEC).batch(indices), SPEC)
    return torch.nn.functional.normalize(model.features(model.trunk(views)), dim=1)


def evaluation(images: Path, names: tuple[str, ...] = GOOD, **changes: Any) -> registry.Evaluation:
    """Return what a registration records of a model with these cluster names, were its clusters the classes."""
    chosen = options(images, **changes)
    data, split, truth = posed(chosen)
    found = SimpleNamespace(train=truth.train)
    config = SimpleNamespace(**dataclasses.asdict(chosen), select_by="last")
    trained = SimpleNamespace(data=data, split=split, config=config, state=SimpleNamespace(lineage=NOTHING))
    test = register.test_digest(data, truth)
    return register.evaluation(trained, [{"name": name} for name in (*names, "ring")], found, test)


def write(folder: Path, images: Path, names: tuple[str, ...] = GOOD, spoil: float = 1.0, novel: str = "novel 1", **changes: Any) -> Any:
    """Write a served model whose clusters carry `names` and `novel`; return its data. `spoil` multiplies the weights.

    novel: of the cluster of rings; a known class's name makes it one of that class.
    """
    data, split = load_data(options(images, **changes))
    backbone = backbones.build("small_cnn", 12, 0, pretrained=False, seed=3)
    model = DiscoveryModel(backbone, ProjectionHead(backbone.feature_dim, 8, 4, 4, seed=1)).eval()
    rows = np.concatenate([split.labelled, np.flatnonzero(data.train.labels == 3)])
    found, labels = features(model, data.train.source, rows), torch.from_numpy(data.train.labels[rows])
    centres = torch.stack([found[labels == label].mean(dim=0) for label in range(4)]).numpy()
    clusters = [{"name": name, "known": name in GOOD} for name in (*names, novel)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(spoil)
    serving.write(folder, model, SPEC, centres, {"model_name": "small_cnn", "grad_from_block": 0, "clusters": clusters})
    return data


def make(
    folder: Path,
    images: Path,
    names: tuple[str, ...] = GOOD,
    name: str = NAME,
    recorded: Any = None,
    spoil: float = 1.0,
    novel: str = "novel 1",
    identity: Any = None,
    tags: dict[str, str] | None = None,
    **changes: Any,
) -> str:
    """Register a tiny model from a run of its own; return its version number.

    recorded, identity: take the place of its own ones; `held_out` as `recorded` stands for none. tags: of the run.
    """
    data = write(folder / "data", images, names, spoil, novel, **changes)
    record = recorded or evaluation(images, names, **changes)
    with tracking.open_run("pseudo_pipeline", f"tiny {names}") as run:
        run.tags(tags or {})
        uri = registry.register(
            run,
            name,
            folder / "data",
            "core.serving.discovery",
            register.COLUMNS,
            example(data.train.source),
            {"registered/val/accuracy_old": 1.0},
            {"data": "glyphs"},
            None if recorded is held_out else record,
            identity or register.identity(data),
        )
    return uri.rsplit("/", 1)[1]
