"""What the answers of a served model say of held-out items: a class name each, and of discovery All, Old and New."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.evaluation import discovery, gcd
from core.stages.held_out import HeldOut, codes

Answer = Mapping[str, Any]


def names(items: HeldOut, answers: Sequence[Answer]) -> tuple[str, ...]:
    """Return a class name for each item: the answer's, or that of the novel class which a nameless cluster is matched to."""
    named = [bool(answer.get("known", True)) for answer in answers]
    return discovery.name_novel(items.labels, [answer["class"] for answer in answers], named, items.novel)


def categories(items: HeldOut, answers: Sequence[Answer], named: Sequence[str]) -> dict[str, float]:
    """Return how a model of discovery does on items of known and novel classes; {} where no class is novel.

    `all`, `old`, `new` are of the names that it answers; `v2_*` of its clusters as the field scores them, every one nameless.
    """
    if not items.novel:
        return {}
    truth, said, clusters = codes(items.labels, named, [str(answer.get("cluster", answer["class"])) for answer in answers])
    novel, right = np.isin(np.array(items.labels, dtype=object), items.novel), truth == said
    found = {"all": right, "old": right[~novel], "new": right[novel]}
    v2 = gcd.accuracy(truth, clusters, np.unique(truth[~novel]))
    return {name: float(values.mean()) for name, values in found.items() if len(values)} | discovery.named(v2, "v2")
