"""Data sets for long-tailed classification: class folders, metadata CSV files or AI Challenger annotations, with one label map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core import digest
from core.data import ai_challenger, class_folders, label_map, metadata, validation
from core.data.classification import ClassificationData
from core.data.images import FileImages, ImageSet, empty_set, verified
from core.data.label_map import LabelMap
from core.data.metadata import Entry
from core.errors import UserError

PARTS = ("train", "val", "test")


class Duplicate(NamedTuple):
    """Two images in different parts with the same content; whether they have different labels."""

    first: str
    second: str
    labels_differ: bool


def load(
    train_dir: str,
    val_dir: str,
    test_dir: str,
    train_meta: str,
    val_meta: str,
    test_meta: str,
    class_weights: str,
    val_share: float = 0.0,
    seed: int = 0,
) -> ClassificationData:
    """Return the data set that the options name; '' = absent.

    A part is its metadata CSV (image paths relative to the part's folder, or to the CSV's own where that is absent), else the
    class folders in its folder, else empty; only train must be there. class_weights is a CSV with one weight a class ('' =
    from the training counts). Classes are train's; not every class needs images in val or test. Ids are '<part>/<class>/<file>', by
    where an image lies. Where val is absent, `val_share` of train is split off for it, drawn from `seed` (core.data.validation).
    Raises UserError for a class that train lacks, rows that contradict each other, and, together, all unreadable images.
    """
    parts = {
        "train": read_part("train", train_dir, train_meta),
        "val": read_part("val", val_dir, val_meta),
        "test": read_part("test", test_dir, test_meta),
    }
    data = assemble(name_of(train_dir, train_meta), parts, label_map.make(parts), class_weights)
    if parts["val"] or not val_share:
        return data
    return validation.split_off(data, [entry.group for entry in parts["train"]], val_share, seed, train_meta or train_dir)


def places(config: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return the folder and the table of each part ('' = none) that a configuration names; its `data_root` fills in what others leave open.

    UserError where it is no folder, or nothing to train on is named.
    """
    dirs = {part: str(getattr(config, f"{part}_dir")) for part in PARTS}
    metas = {part: str(getattr(config, f"{part}_meta")) for part in PARTS}
    if config.data_root:
        root = Path(config.data_root).expanduser()
        if not root.is_dir():
            raise UserError(f"data_root = '{config.data_root}' is no folder; give the folder that holds train/, val/ and test/")
        for part in PARTS:
            if not dirs[part] and not metas[part] and (root / part).is_dir():
                dirs[part] = str(root / part)
    if not dirs["train"] and not metas["train"]:
        raise UserError("no training images: give data_root, train_dir (class folders) or train_meta (a metadata CSV)")
    return dirs, metas


def read_part(part: str, folder: str, meta: str = "", annotations: str = "") -> list[Entry]:
    """Return the entries of one part: of its metadata, its AI Challenger annotations, or its class folders; [] when all are ''."""
    if meta and annotations:
        raise UserError(f"{part}_meta and {part}_annotations both say which images {part} has: give one of them")
    if annotations:
        return ai_challenger.read(annotations, folder)
    if meta:
        return metadata.read(meta, folder)
    if folder:
        return class_folders.read(folder, f"{part}_dir", may_be_empty=part != "train")
    if part == "train":
        raise UserError("no training images: give train_dir (class folders) or train_meta (a CSV)")
    return []


def assemble(name: str, parts: Mapping[str, Sequence[Entry]], classes: LabelMap, class_weights: str = "") -> ClassificationData:
    """Return the data set of the parts' entries after reading and checking every image once."""
    weights = label_map.weights_of(metadata.read_weights(class_weights), classes.labels, classes.names) if class_weights else None
    ids = {part: _ids(part, entries, [classes.names[i] for i in classes.indices[part]]) for part, entries in parts.items()}
    file_digests = iter(verified([entry.path for entries in parts.values() for entry in entries]))
    sets: dict[str, Any] = {
        part: ImageSet(
            ids[part],
            classes.indices[part],
            FileImages([entry.path for entry in entries], [next(file_digests) for _ in entries]),
        )
        if entries
        else empty_set()
        for part, entries in parts.items()
    }
    return ClassificationData(name, classes.names, **sets, attributes=classes.attributes, class_weights=weights)


def name_of(train_dir: str, listing: str = "") -> str:
    """Return the data set's name: its folder's, without the 'train' or 'metadata' below it."""
    folder = Path(train_dir).expanduser() if train_dir else Path(listing).expanduser().parent
    folder = folder.resolve()
    while folder.name.lower() in {"train", "images", "metadata"} and folder.parent.name:
        folder = folder.parent
    return folder.name


def _ids(part: str, entries: Sequence[Entry], names: Sequence[str]) -> tuple[str, ...]:
    """Return '<part>/<class>/<file>' of each entry; the path instead of the file's name where a class has two files of one name."""
    short = [(name, entry.path.name) for name, entry in zip(names, entries, strict=True)]
    seen = Counter(short)
    ids = tuple(
        f"{part}/{name}/{file if seen[name, file] == 1 else entry.file}" for (name, file), entry in zip(short, entries, strict=True)
    )
    for identity, count in Counter(ids).items():
        if count > 1:
            raise UserError(f"two images would share the id '{identity}': rename one of them or its class")
    return ids


def duplicates_across(data: ClassificationData) -> list[Duplicate]:
    """Return the images whose content another part also holds.

    For each two of train, val and test, every image of the later one that the earlier one holds too is listed once, beside
    the first equal image there, or beside the first with another label where there is one.
    """
    sets = [data.train, data.val, data.test]
    contents = [_content_digests(images) for images in sets]
    found = []
    for earlier, later in combinations(range(len(sets)), 2):
        partners: dict[str, dict[int, int]] = {}
        for index, (content, label) in enumerate(zip(contents[earlier], sets[earlier].labels.tolist(), strict=True)):
            partners.setdefault(content, {}).setdefault(label, index)
        for index, (content, label) in enumerate(zip(contents[later], sets[later].labels.tolist(), strict=True)):
            by_label = partners.get(content, {})
            others = [i for other, i in by_label.items() if other != label]
            if by_label:
                first = min(others) if others else by_label[label]
                found.append(Duplicate(sets[earlier].ids[first], sets[later].ids[index], bool(others)))
    return found


def repeated_within(images: ImageSet) -> int:
    """Return how many images of a part repeat the content of an earlier one of the same part."""
    contents = _content_digests(images)
    return len(contents) - len(set(contents))


def _content_digests(images: ImageSet) -> Sequence[str]:
    """Return a digest of each image: of its file, or of its pixels where it has none."""
    if isinstance(images.source, FileImages):
        return images.source.file_digests
    return [digest.of_array(pixels) for pixels in images.source.load(np.arange(len(images)))]
