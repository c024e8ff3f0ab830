"""Answers to the rows of a request: in batches, each bad row answering for itself, with more than the best class on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from core.data.images import ArrayImages
from core.data.views import ViewSpec, resize_all
from core.errors import UserError
from core.serving.images import decode

BATCH = 8  # rows that are decoded and computed together: bounds a request's memory; 32 were slower on processors, by their caches
Answer = dict[str, Any]


def answer(
    rows: Sequence[Any],
    read: Callable[[Any], Any],
    shares: Callable[[list[Any]], tuple[np.ndarray, np.ndarray]],
    describe: Callable[[int], Answer],
    params: Mapping[str, Any] | None,
) -> list[Answer]:
    """Return one answer a row.

    A row that cannot be read has null in every column and the reason in `error`, a column that all rows then have.

    Args:
        rows: what `read` takes, one a row.
        read: a row's input for the model; UserError for one that cannot be read.
        shares: the answered class (B,) and the probabilities (B, C) of B inputs.
        describe: class c's columns, `class` among them.
        params: `top_k`: how many classes with their probabilities to name for each row, the most probable first; 0 = none.

    Raises:
        UserError: no row can be read, or a parameter is wrong.
    """
    top_k, answers, errors = _top_k(params), [], {}
    for start in range(0, len(rows), BATCH):
        inputs: dict[int, Any] = {}
        for number, row in enumerate(rows[start : start + BATCH], start):
            try:
                inputs[number] = read(row)
            except UserError as error:
                errors[number] = str(error)
        found = dict(zip(inputs, zip(*shares(list(inputs.values())), strict=True), strict=True)) if inputs else {}
        answers += [_row(found.get(start + i), describe, top_k) for i in range(len(rows[start : start + BATCH]))]
    if not errors:
        return answers
    if len(errors) == len(rows):
        number, said = next(iter(errors.items()))
        raise UserError(said if len(rows) == 1 else f"none of the {len(rows)} rows can be read; row {number}: {said}")
    return [row | {"error": errors.get(number)} for number, row in enumerate(answers)]


def _row(found: tuple[int, np.ndarray] | None, describe: Callable[[int], Answer], top_k: int) -> Answer:
    if found is None:
        return dict.fromkeys(["class", "confidence", *describe(0)]) | ({"top_k": None} if top_k else {})
    best, probabilities = int(found[0]), found[1]
    said = describe(best)
    told = {"class": said["class"], "confidence": float(probabilities[best]), **said}
    if top_k:
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        told["top_k"] = [{"class": describe(int(c))["class"], "probability": float(probabilities[c])} for c in order]
    return told


def _top_k(params: Mapping[str, Any] | None) -> int:
    given = (params or {}).get("top_k", 0)
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < 0:
        raise UserError(f"top_k = {given} is no number of classes; give 0 (none) or more")
    return int(given)


def resized(value: Any, spec: ViewSpec) -> torch.Tensor:
    """Return one image of a request as (1, 3, R, R) uint8, resized as the training resized its images."""
    return resize_all(ArrayImages(decode(value, spec.resize)[None]), spec).batch(np.array([0]))
