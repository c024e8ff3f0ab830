"""Who trains, who chooses the epoch, who is held out: parts as row numbers of a pool, decided by `random_state` alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from core.errors import UserError
from core.stages.clip.data import Pool

Rows = dict[str, np.ndarray]


def parts(pool: Pool, config: Any) -> Rows:
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


def folds(pool: Pool, config: Any) -> list[tuple[np.ndarray, np.ndarray]]:
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
    """Return (kept, held out) of `rows`: `share` of every class, at least one image of a class with two or more."""
    if not share or not len(rows):
        return rows, np.zeros(0, np.int64)
    labels = pool.images.labels[rows]
    if pool.groups is not None:
        k = max(2, round(1 / share))
        groups = pool.groups[rows]
        if len(np.unique(groups)) < k:
            raise UserError(f"{option} = {share}: the images form only {len(np.unique(groups))} groups; raise it or set it to 0")
        kept, held_out = _stratified(labels, groups, k, seed)[0]
        return rows[kept], rows[held_out]
    rng = np.random.default_rng([seed, len(option)])
    chosen = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: max(1, round(share * len(members))) if len(members) > 1 else 0])
    held = np.sort(np.concatenate(chosen))
    return np.delete(rows, held), rows[held]


def _require_every_class(pool: Pool, train: np.ndarray, where: str) -> None:
    missing = absent_classes(pool, train)
    if missing:
        raise UserError(
            f"class '{missing[0]}' has no training image left in {where} (all its images, or all its groups, are held out); "
            "add images, lower n_splits or hold out less"
        )
