"""A registered SuperCLIP classifier: images in, class and confidence out. Loaded by MLflow's pyfunc without any pickle.

The folder holds `model.safetensors` (image tower, class embeddings, scale) and `model.json` (how to build the tower, names of
the classes). The text tower has done its work: its embeddings of the classes are what is served.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from core.data.views import ViewSpec, evaluation_view
from core.lineage import NOTHING, Lineage
from core.models.clip import build_image_tower
from core.models.clip_sentences import SentenceClip
from core.serving.answers import answer, resized

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
    """Answers `predict(table)`: column `image` holds base64 of image files; returns class and confidence."""

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

    def predict(self, table: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return one answer per row of a table with a column `image`; see `core.serving.answers.answer`."""
        read = partial(resized, spec=self.spec)
        return answer(list(table["image"]), read, self.shares, lambda c: {"class": self.class_names[c]}, params)

    @torch.no_grad()
    def shares(self, images: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Return the best class (B,) of B resized images and the probabilities of all (B, C) float64."""
        embeddings = F.normalize(self.tower(evaluation_view(torch.cat(images), self.spec)).float(), dim=1)
        found = (self.scale * embeddings @ self.classes.T).double().softmax(dim=1).numpy()
        return found.argmax(axis=1), found


def _load_pyfunc(path: str) -> SentencePredictor:
    return SentencePredictor(Path(path))
