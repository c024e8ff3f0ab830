"""Who is labelled: the one random choice that defines a discovery problem.

Labelled images are drawn without replacement from the pooled training images of all known classes (Vaze et al. 2022,
Generalized Category Discovery, section 4); all other training images are unlabelled. Part of the labelled images is held
out for model selection: it takes part in no loss, neither as labelled nor as unlabelled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from core import digest
from core.data.images import DiscoveryData
from core.data.superclasses import Superclass
from core.errors import UserError


@dataclass(frozen=True, eq=False)
class Split:
    """A partition of the training images.

    labelled, validation, unlabelled, left_out: sorted int64 indices into the training set, disjoint, together all of it; those left out
    are copies of labelled images.
    seed, prop_train_labels, val_fraction, labels_per_class: what it was made from. digest: of all of these. of_heap: labels were given.
    """

    labelled: np.ndarray
    validation: np.ndarray
    unlabelled: np.ndarray
    seed: int
    prop_train_labels: float
    val_fraction: float
    labels_per_class: int
    digest: str
    left_out: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    of_heap: bool = False

    @property
    def labelled_share(self) -> float | None:
        """The labelled part to expect of a known class's images without the held-out ones; None where labels were given or counted."""
        if self.labels_per_class or self.of_heap:
            return None
        held_out = self.prop_train_labels * self.val_fraction
        return (self.prop_train_labels - held_out) / (1 - held_out)


def make_split(
    labels: np.ndarray,
    known_classes: Collection[int],
    prop_train_labels: float,
    val_fraction: float,
    seed: int,
    labels_per_class: int = 0,
    class_names: tuple[str, ...] = (),
) -> Split:
    """Split the training images with labels (N,) into labelled, validation and unlabelled.

    prop_train_labels in (0,1] of the pooled known-class images get a label (validation included), or, where
    labels_per_class > 0, exactly that many of each known class; val_fraction in [0,1) of those are held out, class by class.
    The choice of labels does not depend on val_fraction. class_names only make error messages clearer.
    Raises UserError for parameters out of range and for a class with fewer images than labels asked for.
    """
    _check(prop_train_labels, val_fraction, seed, labels_per_class)
    rng = np.random.default_rng(seed)
    known = np.flatnonzero(np.isin(labels, sorted(known_classes)))
    if not len(known):
        raise UserError("no training image of a known class: name fewer novel classes, labels can only come from known ones")
    if labels_per_class:
        chosen = _draw_per_class(labels, known_classes, labels_per_class, class_names, rng)
    else:
        chosen = rng.choice(known, round(prop_train_labels * len(known)), replace=False)
    validation = _hold_out(labels, np.sort(chosen), val_fraction, rng)
    labelled = np.setdiff1d(chosen, validation)
    if not len(labelled):
        raise UserError(
            f"no labelled image is left of {len(known)} known-class training images: raise prop_train_labels "
            f"({prop_train_labels}) or lower val_fraction ({val_fraction})"
        )
    unlabelled = np.setdiff1d(np.arange(len(labels)), chosen)
    labelled, validation, unlabelled = parts = [part.astype(np.int64) for part in (labelled, validation, unlabelled)]
    settings = [seed, 0.0 if labels_per_class else float(prop_train_labels), float(val_fraction), labels_per_class]
    identity = digest.of_json([settings, sorted(int(c) for c in known_classes), [digest.of_array(part) for part in parts]])
    return Split(labelled, validation, unlabelled, seed, prop_train_labels, val_fraction, labels_per_class, identity)


def split_of(data: DiscoveryData, prop_train_labels: float, val_fraction: float, seed: int, labels_per_class: int = 0) -> Split:
    """Split a data set as it was read: a benchmark's labels are drawn (`make_split`), a heap's are those that were given.

    Of a heap's given labels `prop_train_labels` (or `labels_per_class`, or all where a class has fewer) are used, and `val_fraction`
    of these is held out class by class and by whole groups, unless the user has said which: those are all held out, and the share is
    drawn from the others. A class keeps a labelled image. What is not used is unlabelled. There may be no label at all.

    A share is drawn group by group; the last group may be labelled in part, as the number of labels is what was asked for. No figure is
    too good by that: such a group trains, labelled and unlabelled, and is never held out.
    """
    if data.given is None:
        known = data.known_classes
        return make_split(data.train.labels, known, prop_train_labels, val_fraction, seed, labels_per_class, data.class_names)
    _check(prop_train_labels, val_fraction, seed, labels_per_class)
    rng, labels = np.random.default_rng(seed), data.train.labels
    held_out = np.zeros(len(labels), bool) if data.held_out is None else data.given & data.held_out
    free = np.flatnonzero(data.given & ~held_out)
    if labels_per_class:
        members = [free[labels[free] == c] for c in np.unique(labels[free])]
        drawn = [_draw(of_class, min(labels_per_class, len(of_class)), data.groups, rng) for of_class in members]
    else:
        drawn = [_draw(free, round(prop_train_labels * len(free)), data.groups, rng)]
    chosen = np.sort(np.concatenate([np.flatnonzero(held_out), *drawn]))
    chosen = _with_each_class(data, chosen, rng)
    groups = np.arange(len(labels)) if data.groups is None else data.groups
    twins = np.flatnonzero(data.twins) if data.twins is not None else np.zeros(0, np.int64)
    others = np.setdiff1d(np.arange(len(labels)), np.concatenate([chosen, twins]))
    if data.held_out is not None:
        validation = np.flatnonzero(held_out)
    else:
        validation = hold_out_groups(labels, chosen, groups, groups[others], val_fraction, rng)
    parts = [part.astype(np.int64) for part in (np.setdiff1d(chosen, validation), validation, others, twins)]
    settings = [seed, 0.0 if labels_per_class else float(prop_train_labels), float(val_fraction), labels_per_class]
    identity = digest.of_json([settings, "given", [digest.of_array(part) for part in parts]])
    labelled, validation, unlabelled, left_out = parts
    return Split(labelled, validation, unlabelled, seed, prop_train_labels, val_fraction, labels_per_class, identity, left_out, True)


def _with_each_class(data: DiscoveryData, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the chosen indices and one more of each class of a heap that would have none to train on.

    UserError for a class whose given images are all held out by the user.
    """
    labels, given = data.train.labels, np.zeros(len(data.train), bool) if data.given is None else data.given
    may_train = given if data.held_out is None else given & ~data.held_out
    lost = np.setdiff1d(labels[given], labels[chosen[may_train[chosen]]])
    added = []
    for c in lost:
        members = np.flatnonzero(may_train & (labels == c))
        if not len(members):
            raise UserError(f"every labelled image of class '{data.class_names[c]}' is held out (split = val): leave one to learn from")
        added.append(rng.choice(members, 1))
    return np.sort(np.concatenate([chosen, *added]))


def _draw(members: np.ndarray, count: int, groups: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Return `count` of the indices `members`, drawn by groups (N,): at most one group is drawn in part. groups: None = each is alone."""
    if groups is None:
        return rng.choice(members, count, replace=False) if len(members) else members
    found, number = np.unique(groups[members], return_inverse=True)
    turn = rng.permutation(len(found))[number]
    return members[np.argsort(turn, kind="stable")[:count]]


def hold_out_groups(
    labels: np.ndarray,
    chosen: np.ndarray,
    groups: np.ndarray,
    elsewhere: np.ndarray,
    val_fraction: float,
    rng: np.random.Generator,
    each_class: bool = False,
) -> np.ndarray:
    """Return about `val_fraction` of each class's chosen indices, by whole groups (N,) of which none is `elsewhere`; never all of a class.

    A class of which the fraction comes to less than half an image gives none. With `each_class` it gives one, and no class gives more
    than half of its images, nor more than its fraction where smaller groups do. Time grows as N log N.
    """
    found, number = np.unique(groups, return_inverse=True)
    whole = np.bincount(number[chosen], minlength=len(found))  # chosen images of each group
    whole[np.isin(found, elsewhere)] = -1
    held: list[np.ndarray] = []
    by_class = chosen[np.argsort(labels[chosen], kind="stable")]
    for members in np.split(by_class, np.flatnonzero(np.diff(labels[by_class])) + 1):
        members = members[np.argsort(number[members], kind="stable")]
        own, start, size = np.unique(number[members], return_index=True, return_counts=True)
        wanted, n_held, most = round(val_fraction * len(members)), 0, len(members) - 1
        order = rng.permutation(len(own))
        if each_class:
            most = len(members) // 2
            wanted = max(min(wanted, most), 1)
            order = order[np.argsort(np.maximum(size[order], wanted), kind="stable")]  # groups above the fraction last, smaller ones first
        for at in order:
            if n_held >= wanted:
                break
            room = (wanted if each_class and n_held else most) - n_held
            if size[at] == whole[own[at]] and size[at] <= room:  # of one class: it goes over as a whole
                held.append(members[start[at] : start[at] + size[at]])
                n_held += int(size[at])
    return np.sort(np.concatenate([np.zeros(0, np.int64), *held]))


def _check(prop_train_labels: float, val_fraction: float, seed: int, labels_per_class: int) -> None:
    """Raise UserError for a parameter out of range; the comparisons are written so that NaN fails them."""
    if not 0 < prop_train_labels <= 1:
        raise UserError(f"prop_train_labels must be above 0 and at most 1, not {prop_train_labels}")
    if not 0 <= val_fraction < 1:
        raise UserError(f"val_fraction must be at least 0 and below 1, not {val_fraction}")
    if seed < 0:
        raise UserError(f"seed must be 0 or more, not {seed}")
    if labels_per_class < 0:
        raise UserError(f"labels_per_class must be 0 (use prop_train_labels) or more, not {labels_per_class}")


def _draw_per_class(
    labels: np.ndarray, known_classes: Collection[int], count: int, class_names: tuple[str, ...], rng: np.random.Generator
) -> np.ndarray:
    """Return `count` training indices of each known class; UserError where a class has fewer."""
    chosen = []
    for label in sorted(known_classes):
        members = np.flatnonzero(labels == label)
        if len(members) < count:
            name = class_names[label] if class_names else label
            raise UserError(f"labels_per_class is {count}, but class '{name}' has only {len(members)} training images: ask for fewer")
        chosen.append(rng.choice(members, count, replace=False))
    return np.concatenate(chosen)


def _hold_out(labels: np.ndarray, chosen: np.ndarray, val_fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Return round(val_fraction * n) of the n chosen indices, each class giving its share (largest remainders make the total)."""
    total = round(val_fraction * len(chosen))
    classes, counts = np.unique(labels[chosen], return_counts=True)
    shares = counts * (total / len(chosen)) if len(chosen) else counts.astype(float)
    quotas = np.floor(shares + 1e-9).astype(int)
    for position in np.argsort(quotas - shares, kind="stable")[: total - quotas.sum()]:
        quotas[position] += 1
    parts = [rng.choice(chosen[labels[chosen] == c], q, replace=False) for c, q in zip(classes, quotas, strict=True)]
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)


def split_report(data: DiscoveryData, split: Split, superclass: Superclass | None = None) -> dict[str, Any]:
    """Return the JSON-ready description of a split: indices, ids, statistics by class, class maps and digests.

    `superclass` adds its name, number and the map from class index to CIFAR-100 fine id; None for other data sets.
    """
    parts = {"labelled": split.labelled, "validation": split.validation, "unlabelled": split.unlabelled}
    parts |= {"left_out": split.left_out} if len(split.left_out) else {}
    labels = {name: data.train.labels[indices] for name, indices in parts.items()} | {"test": data.test.labels}
    by_class = {
        class_name: {"index": i, "known": i in data.known_classes} | {name: int((part == i).sum()) for name, part in labels.items()}
        for i, class_name in enumerate(data.class_names)
    }
    report = {
        "data": data.name,
        "data_digest": data.digest,
        "split_digest": split.digest,
        "seed": split.seed,
        "prop_train_labels": split.prop_train_labels,
        "val_fraction": split.val_fraction,
        "labels_per_class": split.labels_per_class,
        "class_names": list(data.class_names),
        "known_classes": sorted(data.known_classes),
        "novel_classes": sorted(data.novel_classes),
        "counts": {"train": len(data.train)} | {name: len(part) for name, part in labels.items()},
        "by_class": by_class,
        "indices": {name: indices.tolist() for name, indices in parts.items()},
        "ids": {name: [data.train.ids[i] for i in indices] for name, indices in parts.items()} | {"test": list(data.test.ids)},
    }
    if superclass is not None:
        report["superclass"] = superclass.name
        report["superclass_number"] = superclass.number
        report["fine_ids"] = dict(zip(data.class_names, superclass.fine_ids, strict=True))
    return report
