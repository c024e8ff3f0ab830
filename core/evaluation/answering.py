"""From clusters to an answer: how sure each assignment is, what each category looks like, and what can be said of them all.

No truth takes part, and the same input gives the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from core import digest
from core.clustering.kmeans import assign, semi_supervised_kmeans
from core.data.class_names import plain
from core.evaluation import answer_facts, confidence, positions
from core.evaluation.answer import ALONE, POSITIONS, VALIDATION, Answer, Category
from core.evaluation.classification import calibration
from core.evaluation.places import places, reduced, sampled

SHOWN = 16  # exemplars, borders and outliers of a category
_DECIMALS = 6  # so that files hold the very numbers
_SPLIT_ON = 10_000  # images of a cluster that its halves are found on


@dataclass(frozen=True, eq=False)
class Rows:
    """What is known of N images before they are clustered: ids, paths, contents, labels, parts and duplicates as in `Answer`."""

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    contents: tuple[str, ...]
    labels: tuple[str, ...]
    parts: tuple[str, ...]
    duplicates: np.ndarray

    def __post_init__(self) -> None:
        lengths = {len(column) for column in (self.ids, self.paths, self.contents, self.labels, self.parts, self.duplicates)}
        if len(lengths) > 1:
            raise ValueError(f"columns of {sorted(lengths)} rows do not belong together")
        if self.duplicates.dtype != np.int64:
            raise ValueError(f"duplicates must be int64, not {self.duplicates.dtype}")


class Made(NamedTuple):
    """An answer, and what a registered model needs to answer alike.

    Attributes:
        answer: it.
        temperature: of the confidences.
        radii: (K,) cosine distance from its centre within which 95 % of a cluster's images lie.
        reliability: labels (n,) and shares (n, K) of the held-out images, to draw; None where there are none.
    """

    answer: Answer
    temperature: float
    radii: np.ndarray
    reliability: tuple[np.ndarray, np.ndarray] | None


def category_names(known_names: Sequence[str], clusters: np.ndarray, n_clusters: int, others: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the (K,) names of clusters (N,): the first are the labelled classes', the others `novel 1`, `novel 2`, ..., largest first.

    Numbers that make a name which is in use, however its capitals and blanks are written, are passed over.

    Args:
        others: names that are in use beside those of `known_names`.
    """
    names = [*known_names, *[""] * (n_clusters - len(known_names))]
    sizes = np.bincount(clusters, minlength=n_clusters)[len(known_names) :]
    taken = {plain(name).casefold() for name in (*known_names, *others)}
    free = (name for i in range(1, n_clusters + len(taken) + 1) if (name := f"novel {i}") not in taken)
    for cluster in np.argsort(-sizes, kind="stable"):
        names[len(known_names) + int(cluster)] = next(free)
    return tuple(names)


def make(
    rows: Rows,
    features: np.ndarray,
    clusters: np.ndarray,
    centres: np.ndarray,
    names: Sequence[str],
    n_known: int,
    seed: int,
    facts: Mapping[str, Any] | None = None,
    temperature: float | None = None,
) -> Made:
    """Return the answer that a clustering of N images into K categories is.

    Time grows as N (times K or d) but for sorting: neighbours are sought for at most 7,000 images, the map, silhouette and stability are
    those of 5,000. Memory beside the features: 50 numbers an image, and blocks.

    Args:
        rows: the images.
        features: (N, d) float32, L2-normalised.
        clusters: (N,) cluster of each image.
        centres: (K, d) means of the clusters, fitted without the images whose part is VALIDATION.
        names: (K,) of the categories; the first `n_known` are labelled classes and carry their names.
        n_known: how many clusters belong to labelled classes.
        seed: of samples, the map and halves.
        facts: more to say, beside what is found here.
        temperature: of the confidences, fitted before; None = it is fitted on the held-out images.
    """
    clusters, names = np.asarray(clusters, np.int64), tuple(names)
    _check(rows, features, clusters, centres, names)
    held = _held_out(rows, features, clusters, centres, names[:n_known], temperature)
    shares, margins = (np.round(values, _DECIMALS) for values in confidence.standing(features, centres, clusters, held.temperature))
    distances = positions.cosine_distances(features, centres, clusters)
    strange = positions.strangeness(features, distances, clusters, seed)
    placed = positions.positions(margins, shares, strange)
    points = reduced(features, seed)
    purity = answer_facts.expected_purity(held.clusters, held.wanted, n_known, len(names))
    shape = _shape(features, points, clusters, len(names), seed)
    standing = _Standing(shares, margins, distances, strange, rows.duplicates)
    answer = Answer(
        **vars(rows),
        clusters=clusters,
        halves=_halves(points, clusters, seed),
        confidences=shares,
        margins=margins,
        positions=placed,
        places=places(points, seed),
        categories=_categories(names, n_known, clusters, centres, standing, purity),
        facts={**_counts(rows, len(names), n_known, placed), **_held_out_facts(held), **shape, **(facts or {})},
        digest=digest_of(rows.ids, rows.contents, clusters),
    )
    return Made(answer, held.temperature, positions.radii(distances, clusters, len(names)), held.shares)


def _check(rows: Rows, features: np.ndarray, clusters: np.ndarray, centres: np.ndarray, names: tuple[str, ...]) -> None:
    if not len(rows.ids) == len(features) == len(clusters) or not len(rows.ids):
        raise ValueError(f"{len(rows.ids)} rows, {len(features)} features and {len(clusters)} clusters are no answer")
    if len(names) != len(centres) or not 0 <= clusters.min() <= clusters.max() < len(centres):
        raise ValueError(f"{len(names)} names, {len(centres)} centres and clusters up to {clusters.max()} do not belong together")


class _HeldOut(NamedTuple):
    """Clusters (n,) of the held-out images and those of their classes (negative = none), the shares of the latter, the temperature."""

    clusters: np.ndarray
    wanted: np.ndarray
    shares: tuple[np.ndarray, np.ndarray] | None
    temperature: float
    calibrated: bool


def _held_out(
    rows: Rows, features: np.ndarray, clusters: np.ndarray, centres: np.ndarray, known: tuple[str, ...], temperature: float | None
) -> _HeldOut:
    at = np.flatnonzero(np.array(rows.parts) == VALIDATION)
    numbers = {name: cluster for cluster, name in enumerate(known)}
    wanted = np.array([numbers.get(rows.labels[row], -1) for row in at], np.int64)
    calibrated = temperature is not None or int((wanted >= 0).sum()) >= confidence.LEAST_HELD_OUT
    if temperature is None:
        temperature = confidence.fit_temperature(features[at], centres, wanted)
    shares = answer_facts.held_out_shares(features[at], centres, wanted, temperature)
    return _HeldOut(clusters[at], wanted, shares, temperature, calibrated)


def digest_of(ids: Sequence[str], contents: Sequence[str], clusters: np.ndarray) -> str:
    """Return the sha256 of which images there are and which cluster each is in."""
    return digest.of_json([list(ids), list(contents), np.asarray(clusters).tolist()])


class _Standing(NamedTuple):
    """(N,) arrays: how each image stands to its cluster."""

    shares: np.ndarray
    margins: np.ndarray
    distances: np.ndarray
    strange: np.ndarray
    duplicates: np.ndarray


def _categories(
    names: tuple[str, ...], n_known: int, clusters: np.ndarray, centres: np.ndarray, at: _Standing, purity: Sequence[float | None]
) -> tuple[Category, ...]:
    unit = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    apart = 1.0 - (unit @ unit.T).astype(np.float64)
    np.fill_diagonal(apart, np.inf)
    nearest = apart.argmin(axis=1) if len(names) > 1 else np.array([-1])
    found = []
    for cluster, name in enumerate(names):
        members = np.flatnonzero(clusters == cluster)
        exemplars, borders, outliers = _examples(members, at)
        found.append(
            Category(
                cluster=cluster,
                name=name,
                known=cluster < n_known,
                size=len(members),
                cohesion=round(1.0 - float(at.distances[members].mean()), _DECIMALS) if len(members) else 0.0,
                separation=round(max(float(apart[cluster].min()), 0.0), _DECIMALS) if len(names) > 1 else 0.0,
                nearest=int(nearest[cluster]),
                expected_purity=_rounded(purity[cluster]),
                confidence=round(float(at.shares[members].mean()), _DECIMALS) if len(members) else 0.0,
                exemplars=exemplars,
                borders=borders,
                outliers=outliers,
            )
        )
    return tuple(found)


def _examples(members: np.ndarray, at: _Standing) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return exemplars, borders and outliers, no image twice and no two near-duplicates among the exemplars."""
    strange = members[at.strange[members] > 0]
    outliers = strange[np.argsort(-at.strange[strange], kind="stable")]
    usual = members[at.strange[members] <= 0]
    central = usual[np.argsort(at.distances[usual], kind="stable")]
    groups = at.duplicates[central]
    first = np.zeros(len(central), bool)
    first[np.unique(groups, return_index=True)[1]] = True
    exemplars = central[first | (groups == ALONE)][:SHOWN]
    others = usual[~np.isin(usual, exemplars)]
    borders = others[np.argsort(at.margins[others], kind="stable")]
    return tuple(exemplars.tolist()), tuple(borders[:SHOWN].tolist()), tuple(outliers[:SHOWN].tolist())


def _halves(points: np.ndarray, clusters: np.ndarray, seed: int) -> np.ndarray:
    """Return (N,) 0 or 1: the halves of each cluster by 2-means of at most _SPLIT_ON of its images; 0 is the larger one."""
    halves = np.zeros(len(points), np.int64)
    for cluster in np.unique(clusters):
        members = np.flatnonzero(clusters == cluster)
        if len(members) < 2:
            continue
        chosen = points[members[sampled(len(members), seed, _SPLIT_ON)]]
        nobody, rng = np.zeros(len(chosen), bool), np.random.default_rng([seed, 5, int(cluster)])
        centres = semi_supervised_kmeans(chosen, np.zeros(len(chosen), np.int64), nobody, 2, rng, n_init=3).centres
        side = assign(points[members], centres)
        halves[members] = side if 2 * side.sum() <= len(side) else 1 - side
    return halves


def _counts(rows: Rows, n_classes: int, n_known: int, placed: np.ndarray) -> dict[str, Any]:
    duplicates = rows.duplicates
    return {
        "images": len(rows.ids),
        "n_classes": n_classes,
        "n_known": n_known,
        "n_novel": n_classes - n_known,
        "parts": {part: rows.parts.count(part) for part in sorted(set(rows.parts))},
        **{f"{name}_share": _rounded(float((placed == i).mean())) for i, name in enumerate(POSITIONS)},
        "outliers": int((placed == positions.OUTLIER).sum()),
        "duplicates": int((duplicates != ALONE).sum()),
        "duplicate_groups": len(np.unique(duplicates[duplicates != ALONE])),
    }


def _shape(features: np.ndarray, points: np.ndarray, clusters: np.ndarray, n_classes: int, seed: int) -> dict[str, Any]:
    return {
        "silhouette": _rounded(answer_facts.sampled_silhouette(features, clusters, seed)),
        "stability": _rounded(answer_facts.stability(points, n_classes, seed)),
    }


def _held_out_facts(held: _HeldOut) -> dict[str, Any]:
    """Return what held-out labelled images say; None where nobody can say it."""
    told = held.wanted >= 0
    return {
        "held_out": int(told.sum()),
        "held_out_accuracy": _rounded(float((held.clusters[told] == held.wanted[told]).mean())) if told.any() else None,
        "calibrated": held.calibrated,
        "calibration": "calibrated on held-out labelled images" if held.calibrated else "not calibrated: too few held-out labelled images",
        "calibration_error": _rounded(calibration(*held.shares).ece) if held.shares and held.calibrated else None,
        "temperature": _rounded(held.temperature),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DECIMALS)
