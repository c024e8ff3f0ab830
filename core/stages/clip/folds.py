"""Who trains, who chooses the epoch, who is held out: parts as row numbers of a pool, decided by `random_state` alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from core.errors import UserError
from core.stages.clip.config import ClipData
from core.stages.clip.data import Pool

Rows = dict[str, np.ndarray]


def parts(pool: Pool, config: ClipData) -> Rows:
    """Return the rows of 'train', 'val' and 'test' of one training: the fold `config.fold`, else the parts of `data_dir`.

    Without parts of its own the pool is split by class (whole groups stay together): `test_fraction`, then `val_fraction`.
    A fold holds out its images as 'test'; with val_fraction = 0 they choose the epoch too, as the older tool did, and are 'val'.

    Raises:
        UserError: a class without training images.
    """
    if config.fold:
        train, held_out = folds(pool, config)[config.fold - 1]
        test = held_out
    else:
        train, test = _of(pool, "train"), _of(pool, "test")
        if not pool.part[0]:
            train, test = _hold_out(pool, np.arange(len(pool.images)), config.test_fraction, config.random_state, "test_fraction")
    val = _of(pool, "val") if not config.fold else np.zeros(0, np.int64)
    if not len(val):
        train, val = _hold_out(pool, train, config.val_fraction, config.random_state, "val_fraction")
    if config.fold and not len(val):
        val, test = test, val
    found = {"train": train, "val": val, "test": test}
    _require_every_class(pool, train, f"fold {config.fold}" if config.fold else "the split")
    return found


def folds(pool: Pool, config: ClipData) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (rows to train on, rows held out) of each fold over train and val; data_dir's own test part is in neither.

    Raises:
        UserError: a class with fewer images than folds, or fewer groups than folds.
    """
    rows = np.flatnonzero(pool.part != "test")
    labels, k = pool.images.labels[rows], config.n_splits
    counts = np.bincount(labels, minlength=len(pool.class_names))
    rarest = int(counts.argmin())
    if counts[rarest] < k:
        raise UserError(
            f"class '{pool.class_names[rarest]}' has {counts[rarest]} images, fewer than n_splits = {k}; lower n_splits or add images"
        )
    groups = None if pool.groups is None else pool.groups[rows]
    if groups is not None and len(np.unique(groups)) < k:
        raise UserError(f"the images form {len(np.unique(groups))} groups, fewer than n_splits = {k}; lower n_splits")
    return [(rows[train], rows[held_out]) for train, held_out in _stratified(labels, groups, k, config.random_state)]


def absent_classes(pool: Pool, rows: np.ndarray) -> list[str]:
    """Return the classes that have no image among `rows`."""
    return [pool.class_names[c] for c in np.setdiff1d(np.arange(len(pool.class_names)), pool.images.labels[rows])]


def _of(pool: Pool, part: str) -> np.ndarray:
    return np.flatnonzero(pool.part == part)


def _stratified(labels: np.ndarray, groups: np.ndarray | None, k: int, seed: int) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class that a fold misses is named by this project itself
        return list(splitter(k, shuffle=True, random_state=seed).split(labels, labels, groups))


def _hold_out(pool: Pool, rows: np.ndarray, share: float, seed: int, option: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (kept, held out) of `rows`: `share` of every class, at least one image of a class with two or more.

    Whole groups are held out, of every class as near to its share as they allow; one group of each class stays.
    """
    if not share or not len(rows):
        return rows, np.zeros(0, np.int64)
    labels = pool.images.labels[rows]
    rng = np.random.default_rng([seed, len(option)])
    if pool.groups is not None:
        found, groups = np.unique(pool.groups[rows], return_inverse=True)
        held = np.flatnonzero(_hold_out_groups(labels, groups, share, rng)[groups])
        if not len(held):
            raise UserError(
                f"{option} = {share}: the images form only {len(found)} groups, and none can be held out for it; raise it or set it to 0"
            )
        return np.delete(rows, held), rows[held]
    chosen = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: max(1, round(share * len(members))) if len(members) > 1 else 0])
    held = np.sort(np.concatenate(chosen))
    return np.delete(rows, held), rows[held]


def _hold_out_groups(labels: np.ndarray, groups: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return (G,) bool, the groups that are held out, as many as bring the number of their images nearer to the share.

    In a random order the first one that lowers the squared miss of the classes' shares is taken; where none does, the one that
    raises it least. No class loses its last image.

    Args:
        labels, groups: (N,) class and group 0..G-1 of each image. share: of the images, above 0 and below 1.
    """
    counts = np.zeros((groups.max() + 1, labels.max() + 1), np.int64)
    np.add.at(counts, (groups, labels), 1)
    order = rng.permutation(len(counts))
    counts = counts[order, :][:, counts.any(axis=0)]
    totals, sizes = counts.sum(axis=0), counts.sum(axis=1)
    wanted, have = share * totals, np.zeros(len(totals), np.int64)
    held = np.zeros(len(counts), bool)
    while True:
        nearer = sizes < 2 * (wanted.sum() - have.sum())
        allowed = np.flatnonzero(~held & nearer & (have + counts < totals).all(axis=1))
        if not len(allowed):
            return held[np.argsort(order)]
        rise = (((have + counts[allowed] - wanted) ** 2 - (have - wanted) ** 2) / totals).sum(axis=1)
        best = allowed[np.argmax(rise < 0) if (rise < 0).any() else np.argmin(rise)]
        held[best] = True
        have += counts[best]


def _require_every_class(pool: Pool, train: np.ndarray, where: str) -> None:
    missing = absent_classes(pool, train)
    if missing:
        raise UserError(
            f"class '{missing[0]}' has no training image left in {where} (all its images, or all its groups, are held out); "
            "add images, lower n_splits or hold out less"
        )
