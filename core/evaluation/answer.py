"""The answer to 'which categories are there, and which image belongs where': what the files and the page of a discovery are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Position = Literal["core", "border", "outlier"]
POSITIONS: tuple[Position, ...] = ("core", "border", "outlier")
VALIDATION = "validation"  # the part that confidence is calibrated on
ALONE = -1  # the group of an image without near-duplicates


@dataclass(frozen=True)
class Category:
    """One category: a labelled class or a novel cluster.

    Attributes:
        cluster: index of its centre in the registered model.
        name: the label's name, or `novel 1`, `novel 2`, ... (largest first), until a person names it.
        known: whether people have labelled it.
        size: images of the heap in it (labelled and unlabelled training images).
        cohesion: mean cosine of its images to its centre.
        separation: 1 - cosine of its centre to the nearest other centre.
        nearest: cluster index of that other; -1 = there is none.
        expected_purity: share of its images that are of one class, as far as held-out images tell (known clusters); None = nobody can say.
        confidence: mean calibrated confidence of its images.
        exemplars, borders, outliers: rows (indices into Answer), most central / least sure / least like the others first.
    """

    cluster: int
    name: str
    known: bool
    size: int
    cohesion: float
    separation: float
    nearest: int
    expected_purity: float | None
    confidence: float
    exemplars: tuple[int, ...]
    borders: tuple[int, ...]
    outliers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Answer:
    """One row an image, labelled ones too; N rows.

    Attributes:
        ids: image ids, unique.
        paths: where the images lie; the id itself for a data set without files.
        contents: sha256 of each image.
        labels: given label, '' where nobody gave one.
        parts: labelled, validation, unlabelled or left_out (a copy of a labelled image).
        clusters: (N,) int64 cluster index.
        halves: (N,) int64 0 or 1: which half of its cluster an image falls into when that is split in two.
        confidences: (N,) calibrated on held-out labelled images, 0..1.
        margins: (N,) how much more of the first cluster than of the second, 0..1.
        positions: (N,) index into POSITIONS.
        duplicates: (N,) number of the group of near-duplicates, -1 = the image is alone.
        places: (N, 2) float32 of a map on which alike images lie together.
        categories: in order of cluster index.
        facts: what the head of the page says: n_classes, its interval and curve, held-out accuracy, silhouette, stability, core share.
        digest: of ids, contents and clusters: what `clusters.json` names, so that it is never used with another answer.
    """

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    contents: tuple[str, ...]
    labels: tuple[str, ...]
    parts: tuple[str, ...]
    clusters: np.ndarray
    halves: np.ndarray
    confidences: np.ndarray
    margins: np.ndarray
    positions: np.ndarray
    duplicates: np.ndarray
    places: np.ndarray
    categories: tuple[Category, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    def __len__(self) -> int:
        return len(self.ids)
