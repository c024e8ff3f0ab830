"""The answer of a pipeline: which image lies where, as files and as a page. No truth comes near it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from core.clustering.n_classes import Count
from core.data import near_duplicates
from core.data.images import FileImages, small
from core.data.problem import NOBODY_SAID, Problem
from core.data.splits import Split
from core.evaluation import answer_files, answering
from core.evaluation.answer import VALIDATION
from core.evaluation.discovery import Clustering
from core.evaluation.suggest import suggest
from core.plots import category_page, figure, reliability
from core.stages import held_out

PARTS = ("labelled", VALIDATION, "unlabelled", "left_out")


def n_labelled(data: Problem, split: Split) -> int:
    """Return how many classes have a labelled image: as many clusters are theirs."""
    return len(np.unique(data.train.labels[split.labelled]))


def names_of(data: Problem, split: Split, found: Clustering) -> tuple[str, ...]:
    """Return the name of each cluster: of labelled classes, which come first, the label; then `novel 1`, `novel 2`, ..."""
    known = [data.known_names[c] for c in np.unique(data.train.labels[split.labelled])]
    return answering.category_names(known, found.train, len(found.result.centres), (*data.known_names, *data.novel_names))


def rows_of(data: Problem, split: Split) -> answering.Rows:
    """Return what is known of every training image before it is clustered."""
    images, n = data.train, len(data.train)
    paths = [str(path) for path in images.source.paths] if isinstance(images.source, FileImages) else images.ids
    parts = np.full(n, "left_out", dtype=object)
    for part in PARTS:
        parts[getattr(split, part)] = part
    contents = held_out.contents(images, np.arange(n))
    labels = ["" if label == NOBODY_SAID else data.known_names[label] for label in images.labels]
    return answering.Rows(images.ids, tuple(paths), contents, tuple(labels), tuple(parts), near_duplicates.find(images.source, contents))


def made(data: Problem, split: Split, found: Clustering, features: np.ndarray, seed: int, facts: Mapping[str, Any]) -> answering.Made:
    """Return the answer of a clustering of all training images, from their L2-normalised features (N, d)."""
    names = names_of(data, split, found)
    return answering.make(
        rows_of(data, split), features, found.train, found.result.centres, names, n_labelled(data, split), seed, facts=facts
    )


def counted(count: Count, asked: str | int, declared: int | None, by_classifier: bool = False) -> dict[str, Any]:
    """Return what the page says of the number of classes: the estimate, its interval and curve, and what else was taken for it.

    Args:
        by_classifier: the answer is a classifier's, whose number was estimated when it was made.
    """
    said = {"estimated_classes": count.n, "estimated_low": count.low, "estimated_high": count.high}
    estimated = "the classifier's, estimated when it was made" if by_classifier else "estimated"
    why = "asked for" if asked != "auto" else "declared by the data set" if declared is not None else estimated
    return {**said, "number_of_classes": why, "curve": [list(point) for point in count.curve]}


def write(made: answering.Made, folder: Path, run_id: str, data: Problem, n_suggested: int) -> None:
    """Write the files of an answer, its page and the reliability of its confidence into a run's folder."""
    answer = made.answer
    tests = list(zip(data.test.ids, held_out.contents(data.test, np.arange(len(data.test))), strict=True))
    answer_files.write(answer, folder, run_id, data.skipped, suggest(answer, n_suggested), tests)
    category_page.write(folder / "report.html", answer, partial(small, data.train.source, side=2 * category_page.TILE), run_id, data.name)
    if made.reliability is not None:
        (folder / "plots").mkdir(exist_ok=True)
        figure.save(reliability.reliability(*made.reliability), folder / "plots" / "reliability.png")
