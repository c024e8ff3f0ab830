"""A registered classifier: images in, class and confidence out. Loaded by MLflow's pyfunc without any pickle.

The folder holds `model.safetensors` (the scored weights) and `model.json` (how to build the network, names of the classes).
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from core.data.views import ViewSpec, evaluation_view
from core.lineage import NOTHING, Lineage
from core.models import backbones
from core.models.classifiers import Classifier, CosineHead, FewShotHead, linear_head
from core.serving.answers import answer, resized


def write(folder: Path, model: Classifier, spec: ViewSpec, about: dict[str, Any], lineage: Lineage = NOTHING) -> None:
    """Write what `_load_pyfunc` reads.

    Args:
        folder: new folder.
        model: the scored classifier, on any device.
        spec: its views; only the evaluation view is served.
        about: backbone, class_names, digests.
        lineage: what its weights have learnt from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in model.state_dict().items() if name.startswith(("net.", "heads.label.", "logit_bias"))}
    save_file(
        {name: value.detach().cpu().contiguous().clone() for name, value in kept.items()}, folder / "model.safetensors", lineage.metadata()
    )
    (folder / "model.json").write_text(
        json.dumps({**about, "views": spec.plain(), "head": _shape_of(model.heads["label"])}, indent=1) + "\n"
    )


def _shape_of(head: nn.Module) -> dict[str, Any]:
    """Return what a label head is made of; its weights are in the safetensors."""
    hidden = head.hidden.out_features if isinstance(head, FewShotHead) else 0
    last = head.last if isinstance(head, FewShotHead) else head
    return {"hidden": hidden, "scale": last.scale if isinstance(last, CosineHead) else 0.0}


class ClassifierPredictor:
    """Answers `predict(table)`: column `image` holds base64 of image files; returns class and confidence."""

    def __init__(self, folder: Path):
        about = json.loads((folder / "model.json").read_text())
        head = about["head"]
        self.spec = ViewSpec.of(about["views"])
        self.class_names = about["class_names"]
        backbone = backbones.build(about["backbone"], self.spec.image_size, 0, pretrained=False)
        dim, n_classes = backbone.feature_dim, len(self.class_names)
        label = FewShotHead(dim, n_classes, head["hidden"]) if head["hidden"] else linear_head(dim, n_classes)
        self.model = Classifier(backbone.tail, dim, nn.ModuleDict({"label": label}))
        if head["scale"]:
            self.model.to_cosine(head["scale"])
        self.model.load_state_dict(load_file(folder / "model.safetensors"))
        self.model.eval()

    def predict(self, table: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return one answer per row of a table with a column `image`; see `core.serving.answers.answer`."""
        read = partial(resized, spec=self.spec)
        return answer(list(table["image"]), read, self.shares, lambda c: {"class": self.class_names[c]}, params)

    @torch.no_grad()
    def shares(self, images: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Return the best class (B,) of B resized images and the probabilities of all (B, C) float64."""
        found = self.model(evaluation_view(torch.cat(images), self.spec))["label"].double().softmax(dim=1).numpy()
        return found.argmax(axis=1), found


def _load_pyfunc(path: str) -> ClassifierPredictor:
    return ClassifierPredictor(Path(path))
