"""A registered SuperCLIP classifier: images in, class and confidence out. Loaded by MLflow's pyfunc without any pickle.

The folder holds `model.safetensors` (image tower, class embeddings, scale) and `model.json` (how to build the tower, names of
the classes). The text tower has done its work: its embeddings of the classes are what is served.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from core.data.images import ArrayImages
from core.data.views import ViewSpec, evaluation_view, resize_all
from core.lineage import NOTHING, Lineage
from core.models.clip import build_image_tower
from core.models.clip_sentences import SentenceClip
from core.serving.images import decode

PREFIX = "visual."


@torch.no_grad()
def write(folder: Path, model: SentenceClip, spec: ViewSpec, about: dict[str, Any], lineage: Lineage = NOTHING) -> None:
    """Write what `_load_pyfunc` reads.

    Args:
        folder: new folder.
        model: the scored model, on any device; its mode is as before.
        spec: its views; only the evaluation view is served.
        about: image_encoder_name, image_pretrained, embed_dim, class_names, digests.
        lineage: what its weights have learnt from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    was_training = model.training
    model.eval()
    tensors = {f"{PREFIX}{name}": value for name, value in model.towers.visual.state_dict().items()}
    tensors |= {"classes": F.normalize(model.class_embeddings().float(), dim=1), "scale": model.scale}
    model.train(was_training)
    save_file(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
        folder / "model.safetensors",
        lineage.metadata(),
    )
    (folder / "model.json").write_text(json.dumps({**about, "tower": model.towers.visual.settings, "views": spec.plain()}, indent=1) + "\n")


class SentencePredictor:
    """Answers `predict(table)`: column `image` holds base64 image bytes or paths; returns class and confidence."""

    def __init__(self, folder: Path):
        about = json.loads((folder / "model.json").read_text())
        self.spec = ViewSpec.of(about["views"])
        self.class_names = about["class_names"]
        tensors = load_file(folder / "model.safetensors")
        self.classes, self.scale = tensors["classes"], tensors["scale"]
        self.tower = build_image_tower(
            about["image_encoder_name"], about["image_pretrained"], about["embed_dim"], self.spec.image_size, about.get("tower")
        )
        self.tower.load_state_dict({name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)})
        self.tower.eval()

    @torch.no_grad()
    def predict(self, table: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return one answer per row of a table with a column `image`."""
        answers = []
        for value in table["image"]:
            pixels = resize_all(ArrayImages(decode(value)[None]), self.spec).batch(np.array([0]))
            embedding = F.normalize(self.tower(evaluation_view(pixels, self.spec)).float(), dim=1)
            probabilities = (self.scale * embedding @ self.classes.T).double().softmax(dim=1)[0]
            best = int(probabilities.argmax())
            answers.append({"class": self.class_names[best], "confidence": float(probabilities[best])})
        return answers


def _load_pyfunc(path: str) -> SentencePredictor:
    return SentencePredictor(Path(path))
