"""How sure a score is, and whether two classifiers differ: bootstrap intervals and McNemar's test on the same items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import binomtest

from core.clustering.matching import as_ids
from core.errors import UserError, nearest

# Those that depend on the confusion counts alone and are resampled as such; the same definitions as in core.evaluation.classification.
METRICS = ("accuracy", "balanced_accuracy", "macro_f1")
MACRO = ("macro_precision", "macro_recall")  # means over the classes with items; the recall is the balanced accuracy by its other name
Metric = str | Callable[[np.ndarray, np.ndarray], float]
_BLOCK_CELLS = 1 << 22


@dataclass(frozen=True)
class Interval:
    """A value on the given items with its percentile bootstrap interval: `low`..`high` holds the middle `level` of the resamples."""

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class McNemar:
    """Items (or groups) of which the first and the second got more right, and the two-sided p value of their being equally likely."""

    only_a: int
    only_b: int
    p_value: float


def bootstrap_interval(
    labels: np.ndarray,
    outputs: np.ndarray,
    metric: Metric = "accuracy",
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    groups: np.ndarray | None = None,
) -> Interval:
    """Return the metric of `outputs` against labels (N,) and its percentile interval over `n` resamples of the N items.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3; of whole groups Davison and Hinkley 1997,
    "Bootstrap Methods and their Application", section 3.8. A class that a resample misses is left out of that resample's class means,
    as it would be of a data set without it.

    Args:
        labels: (N,) integers.
        outputs: predictions (N,), or probabilities (N, C), of which METRICS take the argmax.
        metric: one of METRICS or MACRO, fast; or a function of (labels, outputs), called once a resample with the resampled rows.
        n: resamples.
        seed: the same seed gives the same interval; for METRICS whatever the order of the items.
        level: of the interval, between 0 and 1.
        groups: (N,) integers: items of one number (duplicates, views of one photograph) are drawn together, as many groups as there
            are; None = every item by itself.

    Raises:
        UserError: unknown metric, or no items.
        ValueError: arrays that do not fit, n below 1, a level outside 0..1, a metric that is not finite on some resample.
    """
    values, resampled = _resample(labels, (outputs,), metric, n, seed, level, groups)
    return _interval(values[0], resampled[:, 0], level)


def paired_bootstrap(
    labels: np.ndarray,
    outputs_a: np.ndarray,
    outputs_b: np.ndarray,
    metric: Metric = "accuracy",
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    groups: np.ndarray | None = None,
) -> Interval:
    """Return metric(b) - metric(a) and its interval, both scored on the same items of each resample.

    Above 0: b is better. Arguments and errors are those of `bootstrap_interval`.
    """
    values, resampled = _resample(labels, (outputs_a, outputs_b), metric, n, seed, level, groups)
    return _interval(values[1] - values[0], resampled[:, 1] - resampled[:, 0], level)


def paired_swaps(
    labels: np.ndarray,
    outputs_a: np.ndarray,
    outputs_b: np.ndarray,
    metric: str = "accuracy",
    n: int = 1000,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Return (n,) values of metric(b) - metric(a) where a coin decides for every item, or group, which of the two gave which answer.

    This is how the difference varies between two that do not differ; unlike resamples it does so too where they seldom disagree.
    Source: Noreen 1989, "Computer-Intensive Methods for Testing Hypotheses", approximate randomization. Arguments and errors are those
    of `bootstrap_interval`, but for `metric`, one of METRICS.
    """
    if metric not in METRICS:
        raise UserError(f"unknown metric '{metric}' to compare by{nearest(metric, METRICS)} (one of {', '.join(METRICS)})")
    labels, outputs = _checked(labels, (outputs_a, outputs_b))
    groups = np.arange(len(labels)) if groups is None else as_ids(groups)
    names, codes = np.unique(np.concatenate([labels, *map(_decided, outputs)]), return_inverse=True)
    label, a, b = codes.reshape(3, len(labels))
    shape = (len(names),) * 3
    as_is, swapped = (np.ravel_multi_index(columns, shape) for columns in ((label, a, b), (label, b, a)))
    cells, place = np.unique(np.concatenate([as_is, swapped]), return_inverse=True)
    cell_of, other_of = place.reshape(2, len(labels))
    other = np.empty(len(cells), np.int64)
    other[cell_of], other[other_of] = other_of, cell_of
    kinds, share, n_groups = _kinds_of_groups(cell_of, groups, len(cells))
    sizes, change = np.rint(share * n_groups).astype(np.int64), (kinds[:, other] - kinds).toarray()
    counts = np.bincount(cell_of, minlength=len(cells)).astype(np.float64)
    label, a, b = np.unravel_index(cells, shape)
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK_CELLS // max(len(cells), len(sizes)))
    found = []
    for start in range(0, n, rows):
        weights = counts + rng.binomial(sizes, 0.5, (min(rows, n - start), len(sizes))) @ change
        found.append(weighted_scores(metric, weights, label, b) - weighted_scores(metric, weights, label, a))
    return np.concatenate(found)


def mcnemar(labels: np.ndarray, predictions_a: np.ndarray, predictions_b: np.ndarray, groups: np.ndarray | None = None) -> McNemar:
    """Return McNemar's exact test of whether a and b, predictions (N,) or probabilities (N, C), are right equally often.

    Of the items that exactly one got right, a's share is tested against Binomial(1/2), two-sided; without such items p is 1.
    Items of one number in `groups` (N,) are one trial, won by whoever got more of them right: the sign test over groups.
    Source: McNemar 1947. Raises UserError without items, ValueError for arrays that do not fit.
    """
    labels, (a, b) = _checked(labels, (predictions_a, predictions_b))
    _, numbers = np.unique(_checked_groups(groups, len(labels)), return_inverse=True)
    lead = np.bincount(numbers, (_decided(b) == labels).astype(np.int64) - (_decided(a) == labels))
    only_a, only_b = int((lead < 0).sum()), int((lead > 0).sum())
    p_value = float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p_value)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return Holm's step-down p values of a family of tests, in its order: below alpha they keep the chance of any false claim there.

    Source: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure". Raises ValueError for what is no probability.
    """
    given = np.asarray(p_values, np.float64)
    if given.ndim != 1 or not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"p values must be probabilities (K,), not {p_values}")
    order = np.argsort(given, kind="stable")
    stepped = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    corrected = np.empty_like(given)
    corrected[order] = np.minimum(stepped, 1.0)
    return tuple(corrected.tolist())


def weighted_scores(metric: str, weights: np.ndarray, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return (R,) values of `metric`, of METRICS or MACRO; (label, prediction) pair k, (K,) ids from 0, occurs weights[r, k] times."""
    right = labels == predictions
    if metric == "accuracy":
        shares: np.ndarray = weights @ right / weights.sum(axis=1)
        return shares
    n_classes = int(max(labels.max(), predictions.max())) + 1

    def per_class(classes: np.ndarray, values: np.ndarray) -> np.ndarray:
        place = (np.arange(len(classes)), classes)
        sums: np.ndarray = weights @ csr_array((values.astype(np.float64), place), shape=(len(classes), n_classes))
        return sums

    hits, support = per_class(labels, right), per_class(labels, np.ones_like(right))
    if metric in ("balanced_accuracy", "macro_recall"):
        top, bottom = hits, support
    elif metric == "macro_precision":  # 0 for a class that is never predicted
        top, bottom = hits, np.maximum(per_class(predictions, np.ones_like(right)), 1)
    else:
        top, bottom = 2 * hits, support + per_class(predictions, np.ones_like(right))
    present = support > 0
    means: np.ndarray = np.divide(top, bottom, out=np.zeros_like(top), where=present).sum(axis=1) / present.sum(axis=1)
    return means


def _resample(
    labels: np.ndarray, outputs: Sequence[np.ndarray], metric: Metric, n: int, seed: int, level: float, groups: np.ndarray | None
) -> tuple[tuple[float, ...], np.ndarray]:
    """Return the metric of each of S outputs on all items, and (n, S) on resamples."""
    known = (*METRICS, *MACRO)
    if isinstance(metric, str) and metric not in known:
        raise UserError(f"unknown metric '{metric}' to resample{nearest(metric, known)} (one of {', '.join(known)}, or a function)")
    if n < 1:
        raise ValueError(f"n, the number of resamples, must be at least 1, not {n}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    labels, outputs = _checked(labels, outputs)
    groups = _checked_groups(groups, len(labels))
    rng = np.random.default_rng(seed)
    if isinstance(metric, str):
        return _by_counts(labels, [_decided(output) for output in outputs], metric, n, rng, groups)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    resampled = np.empty((n, len(outputs)))
    for row in resampled:
        chosen = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        row[:] = [metric(labels[chosen], output[chosen]) for output in outputs]
    return tuple(float(metric(labels, output)) for output in outputs), resampled


def _by_counts(
    labels: np.ndarray, predictions: Sequence[np.ndarray], metric: str, n: int, rng: np.random.Generator, groups: np.ndarray
) -> tuple[tuple[float, ...], np.ndarray]:
    """As `_resample`: items alike in label and all predictions are one cell, groups of the same cells one kind, and kinds are drawn."""
    names, codes = np.unique(np.concatenate([labels, *predictions]), return_inverse=True)
    columns = codes.reshape(1 + len(predictions), len(labels))
    shape = (len(names),) * len(columns)
    cells, cell_of, counts = np.unique(np.ravel_multi_index(tuple(columns), shape), return_inverse=True, return_counts=True)
    label, *systems = np.unravel_index(cells, shape)
    kinds, share, n_groups = _kinds_of_groups(cell_of, groups, len(cells))

    def scores(weights: np.ndarray) -> np.ndarray:
        return np.stack([weighted_scores(metric, weights, label, system) for system in systems], axis=1)

    rows = max(1, _BLOCK_CELLS // max(len(cells), len(share)))
    blocks = [min(rows, n - start) for start in range(0, n, rows)]
    drawn = [scores(rng.multinomial(n_groups, share, size=block).astype(np.float64) @ kinds) for block in blocks]
    return tuple(scores(counts[None].astype(np.float64))[0].tolist()), np.concatenate(drawn)


def _kinds_of_groups(cell_of: np.ndarray, groups: np.ndarray, n_cells: int) -> tuple[csr_array, np.ndarray, int]:
    """Return (K, cells) how many items of each cell a group of each kind has, the share (K,) of groups of a kind, and their number.

    Kinds are in the order of what they hold: neither the order of items nor the numbers of groups matter.
    """
    numbers, group_of = np.unique(groups, return_inverse=True)
    held = csr_array((np.ones(len(cell_of)), (group_of, cell_of)), shape=(len(numbers), n_cells))  # equal places are added up
    held.sort_indices()
    ends = list(zip(held.indptr[:-1].tolist(), held.indptr[1:].tolist(), strict=True))
    contents = [(tuple(held.indices[a:b].tolist()), tuple(held.data[a:b].tolist())) for a, b in ends]
    first = {content: row for row, content in reversed(list(enumerate(contents)))}
    counted = sorted(Counter(contents).items())
    share = np.array([times for _, times in counted]) / len(numbers)
    return held[[first[content] for content, _ in counted]], share, len(numbers)


def _interval(value: float, resampled: np.ndarray, level: float) -> Interval:
    """Return the percentile interval of the resampled values (n,)."""
    if not np.isfinite(resampled).all():
        raise ValueError("the metric is not finite on some resamples: give it a value where a class is missing")
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level)


def _checked(labels: np.ndarray, outputs: Sequence[np.ndarray]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Return the arrays once they fit together."""
    labels, outputs = as_ids(labels), tuple(np.asarray(output) for output in outputs)
    for output in outputs:
        if output.ndim not in (1, 2) or len(output) != len(labels):
            raise ValueError(f"{len(labels)} labels need predictions (N,) or probabilities (N, C), not {output.shape}")
    if not len(labels):
        raise UserError("no items to compare on: the evaluated part is empty; check its folder or metadata")
    return labels, outputs


def _checked_groups(groups: np.ndarray | None, n: int) -> np.ndarray:
    """Return (n,) group numbers, every item by itself where none are given."""
    found = np.arange(n) if groups is None else as_ids(groups)
    if len(found) != n:
        raise ValueError(f"{n} labels need as many group numbers, not {found.shape}")
    return found


def _decided(output: np.ndarray) -> np.ndarray:
    """Return predictions (N,) of predictions or of probabilities (N, C)."""
    return output.argmax(axis=1) if output.ndim == 2 else as_ids(output)
