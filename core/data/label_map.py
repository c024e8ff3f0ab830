"""One label map for the parts of a data set: which class every image has, and what else is said of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.data.classification import Attribute
from core.data.metadata import ClassWeight, Entry
from core.errors import UserError, nearest

ATTRIBUTES = {"crop": ("crop_id", "crop_type"), "disease": ("disease_id", "disease"), "severity": ("", "severity")}


@dataclass(frozen=True, eq=False)
class LabelMap:
    """The classes of a data set, defined by its training images.

    labels: class folder or label id of each class, in class order. names: its readable name. attributes: crop, disease and
    severity, those that are known. indices: for each part, (N,) int64 class of each of its entries.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    attributes: Mapping[str, Attribute]
    indices: Mapping[str, np.ndarray]


def make(parts: Mapping[str, Sequence[Entry]]) -> LabelMap:
    """Return the label map of the parts 'train', 'val' and 'test'.

    Classes are train's labels, sorted (by number where all are whole numbers). Other parts find their class by label, or by
    label_name where only the name is the same (class folders beside a CSV with numbers). Raises UserError for fewer than two
    classes, a class that train lacks, and rows that contradict each other, naming both.
    """
    labels = tuple(sorted({entry.label for entry in parts["train"]}, key=_order))
    if len(labels) < 2:
        raise UserError(f"the training images have {len(labels)} class ({', '.join(labels)}); at least two are needed")
    by_label = {label: index for index, label in enumerate(labels)}
    said: dict[tuple, tuple[str, str]] = {}
    for entry in parts["train"]:
        _note(said, by_label[entry.label], labels, entry)
    names = tuple(_said(said, index, "label_name") or label for index, label in enumerate(labels))
    _refuse_shared_names(labels, names)
    by_name = {name: index for index, name in enumerate(names)}
    indices = {}
    for part, entries in parts.items():
        found = [_index(entry, part, by_label, by_name) for entry in entries]
        for entry, index in zip(entries, found, strict=True):
            _note(said, index, labels, entry)
        indices[part] = np.array(found, np.int64)
    return LabelMap(labels, names, _attributes(said, names), indices)


def weights_of(rows: Sequence[ClassWeight], labels: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return (C,) float64 weights in class order; UserError unless the rows name every class exactly once."""
    by_label = {label: index for index, label in enumerate(labels)}
    by_name = {name: index for index, name in enumerate(names)}
    weights = np.zeros(len(labels))
    sources: dict[int, str] = {}
    for row in rows:
        meant = by_label.get(row.label, by_name.get(row.label)), by_name.get(row.name, by_label.get(row.name))
        found = {index for index in meant if index is not None}
        if len(found) != 1:
            raise UserError(
                f"{row.source}: class '{row.label or row.name}' "
                + (f"is not the class '{row.name}'" if found else f"has no training image{nearest(row.name or row.label, names)}")
            )
        index = found.pop()
        if index in sources:
            raise UserError(f"{sources[index]} and {row.source} both give a weight to class '{names[index]}': keep one of them")
        weights[index], sources[index] = row.weight, row.source
    missing = [name for index, name in enumerate(names) if index not in sources]
    if missing:
        raise UserError(f"class weights: no weight for class '{missing[0]}' ({len(missing)} missing); give one to every class")
    return weights


def _order(text: str) -> tuple[int, int, str]:
    """Sort whole numbers by value, before all other labels."""
    is_number = text.isascii() and text.isdigit()
    return (0, int(text), text) if is_number else (1, 0, text)


def _index(entry: Entry, part: str, by_label: Mapping[str, int], by_name: Mapping[str, int]) -> int:
    name = entry.facts.get("label_name", "")
    index = by_label.get(entry.label, by_name.get(entry.label, by_name.get(name)))
    if index is None:
        called = f"'{entry.label}'" + (f" ({name})" if name else "")
        raise UserError(
            f"class {called} has images in {part} ({entry.source}) but none in train{nearest(name or entry.label, by_name)}; "
            "add training images or remove it"
        )
    return index


def _note(said: dict[tuple, tuple[str, str]], index: int, labels: Sequence[str], entry: Entry) -> None:
    """Remember what an entry says of its class; UserError when an earlier one says otherwise."""
    for column, value in entry.facts.items():
        before, source = said.setdefault((index, column), (value, entry.source))
        if before != value:
            raise UserError(
                f"{source} and {entry.source} contradict each other on class '{labels[index]}': {column} is '{before}' in the first "
                f"and '{value}' in the second; make them agree"
            )


def _said(said: Mapping[tuple, tuple[str, str]], index: int, column: str) -> str:
    return said.get((index, column), ("", ""))[0]


def _refuse_shared_names(labels: Sequence[str], names: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for label, name in zip(labels, names, strict=True):
        if first.setdefault(name, label) != label:
            raise UserError(f"label_name '{name}' is given to the labels {first[name]} and {label}; every class needs a name of its own")


def _attributes(said: Mapping[tuple, tuple[str, str]], names: Sequence[str]) -> dict[str, Attribute]:
    """Return the attributes that are known, their values in the order of their ids, or of their names where there are none."""
    found = {}
    for attribute, (id_column, name_column) in ATTRIBUTES.items():
        pairs = [(_said(said, i, id_column), _said(said, i, name_column)) for i in range(len(names))]
        if not any(number or name for number, name in pairs):
            continue
        unknown = [name for name, pair in zip(names, pairs, strict=True) if not any(pair)]
        if unknown:
            raise UserError(
                f"the metadata has no {name_column} for class '{unknown[0]}' ({len(unknown)} classes in all) but for others; "
                "fill or empty the whole column"
            )
        found[attribute] = _attribute(pairs, name_column)
    return found


def _attribute(pairs: Sequence[tuple[str, str]], column: str) -> Attribute:
    """Return the attribute of (id, name) of each class; an id without a name is its own name."""
    pairs = [(number, name or number) for number, name in pairs]
    id_of: dict[str, str] = {}
    name_of: dict[str, str] = {}
    for number, name in pairs:
        if id_of.setdefault(name, number) != number:
            raise UserError(f"the metadata gives {column} '{name}' the ids '{id_of[name]}' and '{number}'; make them agree")
        if number and name_of.setdefault(number, name) != name:
            raise UserError(f"the metadata gives the id {number} to {column} '{name_of[number]}' and '{name}'; make them agree")
    ordered = sorted(id_of, key=lambda name: _order(id_of[name] or name))
    position = {name: index for index, name in enumerate(ordered)}
    return Attribute(tuple(ordered), np.array([position[name] for _, name in pairs], np.int64))
