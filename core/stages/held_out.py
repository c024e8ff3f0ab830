"""What a family's models are compared on, never trained on: the test part, or validation; scored by the answers a served model gives."""

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
from core.data.classification import ClassificationData
from core.data.images import ImageSet
from core.evaluation.compare import METRICS, weighted_scores
from core.lineage import Item, Lineage, items_of, matching, short
from core.stages.leakage import Parts
from core.tracking import registry
from core.tracking.identity import Identity

Row = dict[str, str]
PARTS = ("val", "test")
NAMED = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class HeldOut:
    """The items of a validation or test part.

    Attributes:
        labels: (N,) true class names.
        contents: (N,) sha256 of each item's content.
        rows: yields N rows as a served model takes them.
        kept: (N,) which items of the part these are: those that an earlier part holds too are left out.
        groups: (N,) numbers of groups that stand or fall together; () = items of one content do.
        keys: (N,) digests by which each item is found among what a model has learnt from; () = its content alone.
        novel: classes that models discover: their clusters have no names.
    """

    labels: tuple[str, ...]
    contents: tuple[str, ...]
    rows: Callable[[], Iterator[Row]]
    kept: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    keys: tuple[Item, ...] = ()
    novel: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def known_to(self, learnt: Collection[str]) -> int:
        """Return how many of the items a model has learnt from; `learnt` holds content digests, whole or as `short` leaves them."""
        return len(matching(self.keys or items_of(self.contents), frozenset(short(content) for content in learnt)))

    @property
    def digest(self) -> str:
        """The sha256 of contents and labels; where the files lie, their names and their order do not matter."""
        return digest.of_json(sorted(zip(self.contents, self.labels, strict=True)))

    @property
    def group_ids(self) -> np.ndarray:
        """(N,) int64 group numbers."""
        return np.unique(self.groups or self.contents, return_inverse=True)[1].astype(np.int64)


def load(family: str, options: dict[str, Any], part: str) -> HeldOut:
    """Return the part that a family's data options name; raise UserError where they name nothing any more."""
    return importlib.import_module(f"core.stages.{family}.register").held_out(options, part)


def of_images(
    images: ImageSet,
    indices: np.ndarray,
    class_names: Sequence[str],
    seen: Collection[str] = (),
    groups: np.ndarray | None = None,
    novel: Collection[str] = (),
) -> HeldOut:
    """Return the images at `indices` as held-out items, without those whose content is in `seen`.

    groups: (N,) of all `indices`; None = images of one content form one.
    """
    found = contents(images, indices)
    kept = [i for i, content in enumerate(found) if content not in seen]
    chosen = indices[kept]
    return HeldOut(
        tuple(class_names[label] for label in images.labels[chosen]),
        tuple(found[i] for i in kept),
        lambda: _image_rows(images.source, chosen),
        tuple(kept),
        () if groups is None else tuple(groups[kept].tolist()),
        novel=tuple(sorted(novel)),
    )


def of_part(data: ClassificationData, part: str, groups: np.ndarray | None = None) -> HeldOut:
    """Return the validation or test images of a classification data set, without those that an earlier part holds too.

    groups: (N,) of all images of the part.
    """
    earlier = {content for name in ("train", *PARTS[: PARTS.index(part)]) for content in everything(getattr(data, name))}
    images = getattr(data, part)
    return of_images(images, np.arange(len(images)), data.class_names, earlier, groups)


def evaluation(
    family: str, metric: str, data: ClassificationData, answers: Sequence[str], config: Any, data_options: type, lineage: Lineage
) -> registry.Evaluation | None:
    """Return how a classifier's answers do on the validation images, and what promotion needs to ask about held-out ones again.

    None where training holds all validation images too.

    Args:
        data: the data set trained on.
        answers: a class name for each validation image.
        data_options: the dataclass of the options in `config` that name the data.
        lineage: what the model has learnt from.
    """
    val, test = (of_part(data, part) for part in PARTS)
    if not len(val):
        return None
    options = {f.name: getattr(config, f.name) for f in dataclasses.fields(data_options)}
    values = scores(val.labels, [answers[i] for i in val.kept])
    return registry.Evaluation(
        family, metric, values, val.digest, options, config.select_by, tuple(sorted(lineage.learnt)), test.digest if len(test) else ""
    )


def identity(data: ClassificationData) -> Identity:
    """Return which models may replace those of a classification data set."""
    found = (content for part in ("train", *PARTS) for content in everything(getattr(data, part)))
    return Identity.of(data.class_names, found)


def everything(images: ImageSet) -> tuple[str, ...]:
    """Return the sha256 of each image of a part."""
    return contents(images, np.arange(len(images)))


def parts_of(data: Any) -> Parts:
    """Return the items of a family's data with `train`, `val` and `test` images."""
    return Parts(*(items_of(everything(part)) for part in (data.train, data.val, data.test)))


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
