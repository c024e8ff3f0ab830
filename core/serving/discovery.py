"""A registered discovery model: images in, classes, clusters and known/novel out. Loaded by MLflow's pyfunc without any pickle.

The folder holds `model.safetensors` (backbone and cluster centres) and `model.json` (how to build it, names of the clusters).
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from core.clustering.kmeans import assign, confidences
from core.data.views import ViewSpec, evaluation_view
from core.evaluation.features import normalise
from core.lineage import NOTHING, Lineage
from core.models import backbones
from core.models.fast_trunk import FastTrunk, fold
from core.serving.answers import answer, resized

TEMPERATURE = 0.1  # of models that say none


def write(folder: Path, model: Any, spec: ViewSpec, centres: np.ndarray, about: dict[str, Any], lineage: Lineage = NOTHING) -> None:
    """Write what `_load_pyfunc` reads.

    Args:
        folder: new folder.
        model: the trained DiscoveryModel, on any device.
        spec: its views; only the evaluation view is served.
        centres: (K, d) cluster centres: means of L2-normalised features, as the evaluation assigns to.
        about: model_name, grad_from_block, clusters (`name`, `known`, `radius`), the temperature of confidences, digests.
        lineage: what its weights have learnt from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fast = isinstance(model.trunk, FastTrunk)
    trunk = model.trunk.trunk if fast else model.trunk
    tensors = {f"trunk.{name}": value for name, value in trunk.state_dict().items()}
    tensors |= {f"tail.{name}": value for name, value in model.tail.state_dict().items()}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(
        {**tensors, "centres": torch.from_numpy(np.ascontiguousarray(centres, dtype=np.float32))},
        folder / "model.safetensors",
        lineage.metadata(),
    )
    (folder / "model.json").write_text(json.dumps({**about, "views": spec.plain(), "folded": fast and model.trunk.folded}, indent=1) + "\n")


class DiscoveryPredictor:
    """Answers `predict(table)`: column `image` holds base64 of image files; returns class, confidence, cluster, known."""

    def __init__(self, folder: Path):
        about = json.loads((folder / "model.json").read_text())
        tensors = load_file(folder / "model.safetensors")
        self.spec = ViewSpec.of(about["views"])
        self.backbone = backbones.build(about["model_name"], self.spec.image_size, about["grad_from_block"], pretrained=False)
        if about["folded"]:
            self.backbone.trunk = fold(self.backbone.trunk)
        for part in ("trunk", "tail"):
            state = {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}
            getattr(self.backbone, part).load_state_dict(state)
        self.backbone.tail.eval()
        self.centres, self.clusters = tensors["centres"].numpy(), about["clusters"]
        self.temperature = about.get("temperature", TEMPERATURE)
        self.calibrated = bool(about.get("calibrated", "temperature" in about))
        # Within which cosine distance of its centre 95 % of a cluster's images lie; of models that do not say it nothing is outside.
        self.radii = np.array([np.inf if one.get("radius") is None else one["radius"] for one in self.clusters], np.float64)
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> DiscoveryPredictor:
        """Compute on `device` from now on; return self."""
        self.backbone.trunk.to(device)
        self.backbone.tail.to(device)
        self.device = device
        return self

    def predict(self, table: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return one answer per row of a table with a column `image`; see `core.serving.answers.answer`."""
        return answer(list(table["image"]), partial(resized, spec=self.spec), self.shares, self.describe, params)

    def describe(self, cluster: int) -> dict[str, Any]:
        """Return what is known of a cluster."""
        return {"class": self.clusters[cluster]["name"], "cluster": cluster, "known": self.clusters[cluster]["known"]}

    @torch.no_grad()
    def features(self, views: torch.Tensor) -> np.ndarray:
        """Return the L2-normalised features (B, d) of B evaluation views."""
        return normalise(self.backbone.tail(self.backbone.trunk(views.to(self.device))).cpu().numpy())

    def shares(self, images: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Return the cluster (B,) of B resized images and the shares of all (B, K)."""
        features = self.features(evaluation_view(torch.cat(images), self.spec))
        # the very functions whose answers are evaluated
        return assign(features, self.centres), confidences(features, self.centres, self.temperature)


def _load_pyfunc(path: str) -> DiscoveryPredictor:
    return DiscoveryPredictor(Path(path))
