"""Clustering accuracy of Generalized Category Discovery: All, Old (known classes) and New (novel classes).

Source: Vaze et al. 2022, "Generalized Category Discovery", section 4.1; the versions are those of its published evaluation code.
With w[p, t] the number of points in cluster p with true class t:

- v2 (reported by default): one Hungarian assignment over all points; All = right points / points, Old and New the same over the points
  of known and of novel classes.
- v1: an assignment for the known classes and another for the novel ones; All is their mean weighted by counts. Flatters: one
  cluster can serve in both.
- v2b: means over classes of each class's fraction right, under v2's assignment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from core.clustering.matching import best_pairs, contingency
from core.errors import UserError, nearest

VERSIONS = ("v1", "v2", "v2b")


@dataclass(frozen=True)
class Accuracy:
    """Fractions in 0..1; `old` is None where no point has a known class, `new` where none has a novel one, `all` where there is none.

    `assignment` maps cluster id to class id: the pairs of the joint assignment (v2's) in every version. Clusters beyond the number
    of classes are not in it and none of their points is right.
    """

    all: float | None
    old: float | None
    new: float | None
    assignment: dict[int, int] = field(default_factory=dict)
    version: str = "v2"


def accuracy(true_labels: np.ndarray, cluster_ids: np.ndarray, known_classes: Iterable[int], version: str = "v2") -> Accuracy:
    """Score the clusters (N,) of points against their true classes (N,); ids are any integers, in any number.

    A class is old when it is in `known_classes`, whatever its id; known classes without a point are ignored. Where several assignments
    get equally many points right, the one with the most right points of old classes is taken, so that renaming clusters changes nothing.
    Raises UserError for an unknown `version`, ValueError for arrays that do not fit together.
    """
    if version not in VERSIONS:
        raise UserError(f"unknown accuracy version '{version}'{nearest(version, VERSIONS)} (one of {', '.join(VERSIONS)})")
    table = contingency(cluster_ids, true_labels)
    old = np.isin(table.columns, np.asarray(sorted({int(known) for known in known_classes}), dtype=np.int64))
    clusters, classes = best_pairs(table.counts, preferred=old)
    assignment = {int(table.rows[p]): int(table.columns[t]) for p, t in zip(clusters, classes, strict=True)}
    totals = table.counts.sum(axis=0)
    if version == "v1":
        right = _right_apart(table.counts, old)
    else:
        right = np.zeros(len(totals), dtype=np.int64)
        right[classes] = table.counts[clusters, classes]
    score = _class_mean if version == "v2b" else _point_mean
    everything = np.ones(len(totals), dtype=bool)
    return Accuracy(score(right, totals, everything), score(right, totals, old), score(right, totals, ~old), assignment, version)


def _right_apart(counts: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Return the right points of each class (T,) when old and new classes are assigned separately."""
    right = np.zeros(counts.shape[1], dtype=np.int64)
    for mask in (old, ~old):
        columns = np.flatnonzero(mask)
        clusters, classes = best_pairs(counts[:, columns])
        right[columns[classes]] = counts[clusters, columns[classes]]
    return right


def _point_mean(right: np.ndarray, totals: np.ndarray, classes: np.ndarray) -> float | None:
    """Return right points / points over the masked classes; None when there is no such class."""
    return float(right[classes].sum() / totals[classes].sum()) if classes.any() else None


def _class_mean(right: np.ndarray, totals: np.ndarray, classes: np.ndarray) -> float | None:
    """Return the mean over the masked classes of right / points; None when there is no such class."""
    return float((right[classes] / totals[classes]).mean()) if classes.any() else None
