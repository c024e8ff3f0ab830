"""Which images a person should label first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np

from core.evaluation.answer import ALONE, POSITIONS, Answer
from core.evaluation.answer_files import image_row

_UNLABELLED = "unlabelled"


def suggest(answer: Answer, n: int) -> list[dict[str, Any]]:
    """Return the rows of `suggest.csv`: at most `n` unlabelled images whose label would help most, the first to label first.

    First the centre of each novel category, the largest first: one click names all of its images. Then, in turns, of each category, novel
    ones first, the image that lies most evenly between it and another: its label moves the border. Outliers are left out, and of
    near-duplicates, labelled ones too, all but one.
    """
    rows: list[dict[str, Any]] = []
    groups = {group for group, part in zip(answer.duplicates.tolist(), answer.parts, strict=True) if part != _UNLABELLED}
    taken: set[int] = set()
    for row, reason in _wanted(answer):
        group = int(answer.duplicates[row])
        if len(rows) >= n:
            break
        if row in taken or (group != ALONE and group in groups):
            continue
        taken.add(row)
        groups.add(group)
        rows.append({"rank": len(rows) + 1, **image_row(answer, row), "reason": reason})
    return rows


def _wanted(answer: Answer) -> Iterator[tuple[int, str]]:
    """Yield (row, reason) in the order of their worth; a row can come twice."""
    free = (np.array(answer.parts) == _UNLABELLED) & (answer.positions != POSITIONS.index("outlier"))
    novel_first = sorted(answer.categories, key=lambda category: (category.known, -category.size, category.cluster))
    for category in novel_first:
        for row in category.exemplars:
            if not category.known and free[row]:
                yield row, f"centre of {category.name} ({category.size} images): its label names them all"
                break
    names = {category.cluster: category.name for category in answer.categories}
    queues = []
    for category in novel_first:
        members = np.flatnonzero(free & (answer.clusters == category.cluster))
        other = names.get(category.nearest, "another")
        reason = f"border of {category.name}, whose nearest category is {other}: its label moves the border"
        queues.append([(int(row), reason) for row in members[np.argsort(answer.margins[members], kind="stable")]])
    for turn in zip_longest(*queues):
        yield from (pick for pick in turn if pick is not None)
