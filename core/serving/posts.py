"""A trained classifier of posts: image and text in, class and confidence out. Loaded by MLflow's pyfunc without any pickle.

The folder holds `model.safetensors` (all weights, of towers or of n-gram regressions) and `model.json` (how to build it, the names
of the classes, how posts are read), and a sentence encoder's `tokenizer.json`. That of a blend holds the blend's weights, and its members
in folders of their own.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from core import lineage
from core.data import text_cleaning
from core.data.views import ViewSpec
from core.errors import UserError
from core.lineage import NOTHING, Lineage
from core.models import clip
from core.models.blend import Blend
from core.models.clip_towers import Tower
from core.models.ngrams import NgramClassifier
from core.models.post_head_names import BLEND
from core.models.post_heads import PostClassifier
from core.models.post_net import PostNet, Reading
from core.models.preprocessing import OLDER, Preprocessing
from core.serving.answers import answer, resized
from core.serving.posts_blend import BlendPredictor

FILES = ("model.json", "model.safetensors")
TOKENIZER = "tokenizer.json"  # of a sentence encoder, as it came; without one there is no such file
MEMBERS = ("towers", "ngrams")  # of a blend: attributes, and folders
_BATCH = 128


class TowersPredictor:
    """Posts to probabilities by a PostNet.

    Args:
        net: in evaluation mode, on any device.
        about: class_names, cleaning, image_size and whatever else is worth knowing.
    """

    lineage: Lineage = NOTHING
    """What it has learnt from."""

    def __init__(self, net: PostNet, about: Mapping[str, Any]) -> None:
        self.net, self.about = net.eval(), dict(about)
        self.class_names, self.image_size = tuple(about["class_names"]), int(about["image_size"])
        self.preprocessing = net.reading.preprocessing
        self.needs_images, self.needs_texts = net.visual is not None, net.text is not None
        self.rules = text_cleaning.rules_of(about["cleaning"])

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str], images: np.ndarray | None) -> np.ndarray:
        """Return (N, C) float64 of raw texts and images (N, 3, S, S) uint8; see `core.stages.posts.model.PostPredictor`."""
        checked_images(images, len(texts), self.image_size, self.needs_images)
        device, reading, found = self.net.logit_bias.device, self.net.reading, []
        for start in range(0, len(texts), _BATCH):
            rows = slice(start, min(start + _BATCH, len(texts)))
            text = image = None
            if self.needs_texts:
                text = reading.tokenizer([text_cleaning.clean(one, self.rules) for one in texts[rows]]).ids.to(device)
            if self.needs_images and images is not None:
                image = reading.normalise(torch.from_numpy(np.ascontiguousarray(images[rows])).to(device))
            found.append(self.net(text, image).double().softmax(dim=1).cpu().numpy())
        return np.concatenate(found) if found else np.zeros((0, len(self.class_names)))


class NgramPredictor:
    """Posts to probabilities by n-grams, and by the features of a frozen image tower where it has one.

    Args:
        model: the regressions.
        visual: the image tower, None for text alone.
        reading: how images are normalised; None without a tower.
        about: as for TowersPredictor.
    """

    lineage: Lineage = NOTHING
    """What it has learnt from."""

    def __init__(self, model: NgramClassifier, visual: Tower | None, reading: Reading | None, about: Mapping[str, Any]) -> None:
        self.model, self.visual, self.reading, self.about = model, visual, reading, dict(about)
        self.class_names, self.image_size = tuple(about["class_names"]), int(about["image_size"])
        self.preprocessing = OLDER if reading is None else reading.preprocessing
        self.needs_images, self.needs_texts = visual is not None, bool(model.vocabularies)
        self.rules = text_cleaning.rules_of(about["cleaning"])

    def probabilities(self, texts: Sequence[str], images: np.ndarray | None) -> np.ndarray:
        """Return (N, C) float64 of raw texts and images (N, 3, S, S) uint8; see `core.stages.posts.model.PostPredictor`."""
        checked_images(images, len(texts), self.image_size, self.needs_images)
        if not len(texts):
            return np.zeros((0, len(self.class_names)))
        return self.model.probabilities(*self._read(texts, images))

    def by_side(self, texts: Sequence[str], images: np.ndarray | None) -> list[np.ndarray]:
        """Return (N, C) float64 of each regression, that on texts first."""
        checked_images(images, len(texts), self.image_size, self.needs_images)
        if not len(texts):
            return [np.zeros((0, len(self.class_names)))] * (self.needs_texts + self.needs_images)
        return list(self.model.by_side(*self._read(texts, images)).values())

    @torch.no_grad()
    def _read(self, texts: Sequence[str], images: np.ndarray | None) -> tuple[list[str], np.ndarray | None]:
        """Return the texts cleaned, and the image tower's features where it has one."""
        features = None
        if self.visual is not None and self.reading is not None and images is not None:
            batches = torch.from_numpy(np.ascontiguousarray(images)).split(_BATCH)
            features = torch.cat([self.visual.features(self.reading.normalise(batch)).float() for batch in batches]).numpy()
        return [text_cleaning.clean(text, self.rules) for text in texts], features


Predictor = TowersPredictor | NgramPredictor | BlendPredictor


def checked_images(images: np.ndarray | None, n: int, image_size: int, needed: bool) -> None:
    """Raise ValueError unless images are (n, 3, S, S) uint8, or None where they are not needed."""
    if images is None and not needed:
        return
    if images is None or images.dtype != np.uint8 or images.shape != (n, 3, image_size, image_size):
        given = "None" if images is None else f"{images.dtype} {images.shape}"
        raise ValueError(f"{n} posts need images uint8 ({n}, 3, {image_size}, {image_size}), not {given}")


def write(folder: Path, predictor: Predictor) -> None:
    """Write a predictor into a new folder, as `read` takes it.

    `about` must hold `build`: arguments of build_towers (and of the head) that rebuild the network without any weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = dict(predictor.about)
    if isinstance(predictor, BlendPredictor):
        for name in MEMBERS:
            write(folder / name, getattr(predictor, name))
        tensors, towers, reading = {name: torch.from_numpy(np.array(value)) for name, value in vars(predictor.blend).items()}, {}, None
    elif isinstance(predictor, NgramPredictor):
        arrays, about["ngrams"] = predictor.model.parts()
        tensors = {f"ngrams.{name}": torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        towers = {} if predictor.visual is None else {"visual": predictor.visual}
        reading = predictor.reading
    else:
        tensors, towers, reading = predictor.net.state_dict(), {}, predictor.net.reading
    for name, tower in towers.items():
        tensors |= {f"{name}.{key}": value for key, value in tower.state_dict().items()}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(tensors, folder / FILES[1], predictor.lineage.metadata())
    if reading is not None:
        about |= dataclasses.asdict(reading.preprocessing)
    about = _tokenizer_apart(about, folder)
    (folder / FILES[0]).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _tokenizer_apart(about: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return `about` without a sentence encoder's tokenizer, which is written as the file that it was."""
    about = json.loads(json.dumps(about))
    config = _text_config(about)
    if "tokenizer" in config:
        (folder / TOKENIZER).write_text(config.pop("tokenizer"), encoding="utf-8")
    return about


def _text_config(about: Mapping[str, Any]) -> dict[str, Any]:
    settings = (about.get("build") or {}).get("settings") or {}
    return (settings.get("text") or {}).get("config") or {}


def read(folder: Path) -> Predictor:
    """Return the predictor of a folder, on the CPU.

    Raises:
        UserError: a file is missing or damaged, or the weights are of another network or head than model.json says.
    """
    try:
        about = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
        tensors = load_file(folder / FILES[1])
        kind = about["encoder"]
        if (folder / TOKENIZER).is_file():
            _text_config(about)["tokenizer"] = (folder / TOKENIZER).read_text(encoding="utf-8")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"'{folder}' holds no whole post classifier ({' '.join(str(error).split())[:120]}); train or copy it again"
        ) from None
    kinds: dict[str, Callable[..., Predictor]] = {"towers": _towers_predictor, BLEND: _blend_predictor}
    predictor = kinds.get(kind, _ngram_predictor)(about, tensors, folder)
    predictor.lineage = lineage.read(folder / FILES[1])
    return predictor


def _blend_predictor(about: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path) -> BlendPredictor:
    towers, ngrams = (read(folder / name) for name in MEMBERS)
    if not isinstance(towers, TowersPredictor) or not isinstance(ngrams, NgramPredictor):
        raise UserError(f"'{folder}' is no blend of towers and n-grams; train or copy it again")
    return BlendPredictor(towers, ngrams, Blend(**{name: value.numpy() for name, value in tensors.items()}), about)


def _towers_predictor(about: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path) -> TowersPredictor:
    towers = clip.build_towers(**about["build"])
    n_classes = len(about["class_names"])
    head = PostClassifier(towers.text.width, towers.visual.width, n_classes, about["head_variant"], about["modalities"])
    net = PostNet(towers, head, n_classes)
    net.reading = _reading(towers, about)
    _load(net, tensors, folder)
    return TowersPredictor(net, about)


def _reading(towers: clip.ClipTowers, about: Mapping[str, Any]) -> Reading:
    """Return how posts are read; what an older folder does not say is as it was then."""
    said = {name: about[name] for name in ("interpolation", "margin", "resize_mode") if name in about}
    return Reading(towers.tokenizer, tuple(about["mean"]), tuple(about["std"]), **said)


def _ngram_predictor(about: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path) -> NgramPredictor:
    arrays = {name.removeprefix("ngrams."): value.numpy() for name, value in tensors.items() if name.startswith("ngrams.")}
    model, visual, reading = NgramClassifier.from_parts(arrays, about["ngrams"]), None, None
    if about["build"]:
        towers = clip.build_towers(**about["build"])
        visual = towers.visual.eval()
        visual.projection = nn.Identity()
        state = {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
        _refuse_mismatch(visual, state, folder)
        visual.load_state_dict(state)
        reading = _reading(towers, about)
    return NgramPredictor(model, visual, reading, about)


def _load(net: PostNet, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    net.head.load_weights({name.removeprefix("head."): value for name, value in tensors.items() if name.startswith("head.")}, str(folder))
    _refuse_mismatch(net, tensors, folder)
    net.load_state_dict(tensors)


def _refuse_mismatch(module: nn.Module, state: Mapping[str, torch.Tensor], folder: Path) -> None:
    from core.models.weights_fit import first_mismatch

    mismatch = first_mismatch(module.state_dict(), state)
    if mismatch:
        raise UserError(f"the weights in '{folder}' are not of the network that its model.json describes: {mismatch}; copy both again")


class PostsModel:
    """Answers `predict(table)`: columns `image` (base64 of an image file) and `text`; returns class and confidence."""

    def __init__(self, folder: Path):
        self.predictor = read(folder)

    def predict(self, table: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return one answer per row; see `core.serving.answers.answer`."""
        texts = ["" if text is None or (isinstance(text, float) and math.isnan(text)) else str(text) for text in table["text"]]
        images = list(table["image"]) if self.predictor.needs_images else [None] * len(texts)
        names = self.predictor.class_names
        return answer(list(zip(texts, images, strict=True)), self.read, self.shares, lambda c: {"class": names[c]}, params)

    def read(self, row: tuple[str, Any]) -> tuple[str, np.ndarray | None]:
        """Return a row's text and its picture, where one is needed."""
        needed = self.predictor.needs_images
        return row[0], pixels(row[1], self.predictor.image_size, self.predictor.preprocessing) if needed else None

    def shares(self, rows: list[tuple[str, np.ndarray | None]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the best class (B,) and the probabilities of all (B, C)."""
        images = np.stack([image for _text, image in rows if image is not None]) if self.predictor.needs_images else None
        found = self.predictor.probabilities([text for text, _image in rows], images)
        return found.argmax(axis=1), found


def pixels(value: Any, image_size: int, seen: Preprocessing = OLDER) -> np.ndarray:
    """Return one picture, as `core.serving.images.decode` takes it, as (3, S, S) uint8, resized and cut out as `seen` says."""
    spec = ViewSpec.of(seen.views(image_size))
    picture = resized(value, spec)[0].numpy()
    start = (spec.resize - image_size) // 2
    return picture[:, start : start + image_size, start : start + image_size]


def _load_pyfunc(path: str) -> PostsModel:
    return PostsModel(Path(path))
