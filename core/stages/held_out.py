"""What a family's models are chosen on: never trained on, never the test part; scored by the answers a served model gives."""

from __future__ import annotations

import base64
import dataclasses
import importlib
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from core import digest
from core.data.images import ImageSet
from core.evaluation.compare import METRICS, weighted_scores
from core.lineage import Item, Lineage, items_of, matching, short
from core.stages.leakage import Parts
from core.tracking import registry

Row = dict[str, str]
# Each module has `held_out(options) -> HeldOut`.
FAMILIES = {
    "discovery": "core.stages.register",
    "longtail": "core.stages.longtail.register",
    "clip": "core.stages.clip.register",
    "posts": "core.stages.posts.register",
}


@dataclass(frozen=True)
class HeldOut:
    """The items of a validation part.

    labels: (N,) true class names. contents: (N,) sha256 of each item's content. rows: yields N rows as a served model takes them.
    keys: (N,) digests by which each item is found among what a model has learnt from; empty = its content alone.
    """

    labels: tuple[str, ...]
    contents: tuple[str, ...]
    rows: Callable[[], Iterator[Row]]
    keys: tuple[Item, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def known_to(self, learnt: Collection[str]) -> int:
        """Return how many of the items a model has learnt from; `learnt` holds content digests, whole or as `short` leaves them."""
        return len(matching(self.keys or items_of(self.contents), frozenset(short(content) for content in learnt)))

    @property
    def digest(self) -> str:
        """The sha256 of contents and labels; where the files lie, their names and their order do not matter."""
        return digest.of_json(sorted(zip(self.contents, self.labels, strict=True)))


def load(family: str, options: dict[str, Any]) -> HeldOut:
    """Return the held-out part that a family's data options name; raise UserError where there is none any more."""
    return importlib.import_module(FAMILIES[family]).held_out(options)


def of_images(images: ImageSet, indices: np.ndarray, class_names: Sequence[str]) -> HeldOut:
    """Return the images at `indices` as held-out items."""
    labels = tuple(class_names[label] for label in images.labels[indices])
    return HeldOut(labels, contents(images, indices), lambda: _image_rows(images.source, indices))


def evaluation(
    family: str, metric: str, images: Any, answers: Sequence[str], config: Any, data_options: type, lineage: Lineage
) -> registry.Evaluation:
    """Return how a classifier's answers do on the validation images, and what promotion needs to ask about them again.

    Args:
        images: a family's data, with `train`, `val` and `class_names`.
        answers: a class name for each validation image.
        data_options: the dataclass of the options in `config` that name the data.
        lineage: what the model has learnt from.
    """
    part = of_images(images.val, np.arange(len(images.val)), images.class_names)
    options = {f.name: getattr(config, f.name) for f in dataclasses.fields(data_options)}
    learnt = tuple(sorted(lineage.learnt))
    return registry.Evaluation(family, metric, scores(part.labels, answers), part.digest, options, config.select_by, learnt)


def parts_of(data: Any) -> Parts:
    """Return the items of a family's data with `train`, `val` and `test` images."""
    return Parts(*(items_of(contents(part, np.arange(len(part)))) for part in (data.train, data.val, data.test)))


def contents(images: ImageSet, indices: np.ndarray) -> tuple[str, ...]:
    """Return the sha256 of each image at `indices`: of its file, or of its pixels where it is in no file of its own."""
    files = getattr(images.source, "file_digests", None)
    if files is not None:
        return tuple(files[i] for i in indices)
    return tuple(digest.of_array(image) for image in images.source.load(indices))


def _image_rows(source: Any, indices: np.ndarray) -> Iterator[Row]:
    paths = getattr(source, "paths", None)
    for i in indices:
        if paths is not None:
            yield {"image": str(paths[i].resolve())}
        else:
            buffer = io.BytesIO()
            Image.fromarray(source.load(np.array([i]))[0]).save(buffer, format="PNG")
            yield {"image": base64.b64encode(buffer.getvalue()).decode()}


def codes(labels: Sequence[str], *answers: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Return class names as ids (N,) int64 that all of them share; an answer that is no label's class has an id of its own."""
    _names, found = np.unique(
        np.concatenate([np.asarray(part, dtype=object).astype(str) for part in (labels, *answers)]), return_inverse=True
    )
    return tuple(part.astype(np.int64) for part in found.reshape(1 + len(answers), len(labels)))


def scores(labels: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Return every metric that promotion knows, 0..1, of answered against true class names."""
    truth, said = codes(labels, answers)
    return {metric: float(weighted_scores(metric, np.ones((1, len(truth))), truth, said)[0]) for metric in METRICS}
