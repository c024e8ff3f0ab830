"""Class folders and class sentences: what SuperCLIP trains on, read once, before it is known who is held out."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from core import digest
from core.data import class_folders, label_map, texts
from core.data.class_names import plain
from core.data.images import FileImages, ImageSet, subset
from core.data.metadata import Entry
from core.data.views import ResizedImages, ViewSpec, resize_all
from core.errors import UserError
from core.stages.clip.config import ClipData

PARTS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Pool:
    """All images of `data_dir` with their sentences.

    Attributes:
        name: of the data set: its folder's.
        class_names: class folders, sorted.
        sentences: one or more of each class.
        images: all of them; ids are paths below `data_dir`.
        part: (N,) 'train', 'val' or 'test' where `data_dir` says so, else ''.
        groups: (N,) int64, images of one number are never parted; None = every image by itself.
    """

    name: str
    class_names: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]
    images: ImageSet
    part: np.ndarray
    groups: np.ndarray | None
    kept: dict[tuple[int, str, str], ResizedImages] = field(default_factory=dict)

    @property
    def files(self) -> FileImages:
        """Where the images lie."""
        return cast(FileImages, self.images.source)

    @property
    def digest(self) -> str:
        """The sha256 of images, labels, ids, classes and sentences."""
        names = [list(self.class_names), [list(texts) for texts in self.sentences]]
        return digest.of_json([self.images.source.digest, digest.of_array(self.images.labels), list(self.images.ids), *names])

    def subset(self, rows: np.ndarray) -> ImageSet:
        """Return the images at `rows`."""
        return subset(self.images, rows)

    def resized(self, spec: ViewSpec) -> ResizedImages:
        """Return all images resized for views of `spec`; those of another size are let go."""
        key = spec.resize, spec.interpolation, spec.resize_mode
        if key not in self.kept:
            self.kept.clear()
            self.kept[key] = resize_all(self.images.source, spec)
        return self.kept[key]


def load(config: ClipData) -> Pool:
    """Read class folders and sentences and check every image once.

    Raises:
        UserError: no folder, no class, a class without sentence or a sentence without class, unreadable images, groups that miss images.
    """
    root = Path(config.data_dir).expanduser()
    parts = _entries(root)
    classes = label_map.make(parts)
    sentences = read_sentences(config.class_texts_file, classes.names)
    everything = [(part, entry) for part in PARTS for entry in parts[part]]
    given = (root / "train").is_dir()
    ids = tuple(f"{part}/{entry.file}" if given else entry.file for part, entry in everything)
    labels = np.concatenate([classes.indices[part] for part in PARTS])
    images = ImageSet(ids, labels, FileImages([entry.path for _, entry in everything]))
    part = np.array([part if given else "" for part, _ in everything])
    return Pool(root.resolve().name, classes.names, sentences, images, part, _groups(config, ids, [e.file for _, e in everything]))


def _entries(root: Path) -> dict[str, list[Entry]]:
    if not root.is_dir():
        raise UserError(f"data_dir = '{root}' is no folder; give the one that holds <class>/* (or train/, val/ and test/ with them)")
    if not (root / "train").is_dir():
        return {"train": class_folders.read(root, "data_dir"), "val": [], "test": []}
    found = {"train": class_folders.read(root / "train", "data_dir/train")}
    for part in ("val", "test"):
        there = (root / part).is_dir()
        found[part] = class_folders.read(root / part, f"data_dir/{part}", may_be_empty=True) if there else []
    return found


def read_sentences(file: str, class_names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the sentences of each class from a JSON object {class: sentence or list of sentences}.

    Raises:
        UserError: no such file, no such object, a class without sentence, a sentence without class (both named), an empty one.
    """
    given = {plain(name): value for name, value in _read_object(Path(file).expanduser(), file).items()}
    without, unknown = sorted(set(class_names) - set(given)), sorted(set(given) - set(class_names))
    if without or unknown:
        lacking = [f"no sentence for class {_listed(without)}"] if without else []
        lacking += [f"no images for the sentence of class {_listed(unknown)}"] if unknown else []
        raise UserError(f"class_texts_file = '{file}': {'; '.join(lacking)}; sentences and class folders must have the same names")
    return tuple(_texts(name, given[name], file) for name in class_names)


def _texts(name: str, value: Any, file: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"class_texts_file = '{file}': class '{name}' needs a sentence, or a list of sentences, none empty")
    return tuple(dict.fromkeys(text.strip() for text in texts))


def _read_object(path: Path, file: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [plain(name) for name, _ in pairs]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise UserError(f"class_texts_file = '{file}' names class '{twice[0]}' twice; keep one of them")
        return dict(pairs)

    try:
        text = texts.read(path, "sentences")
        json.loads(text)
    except (UserError, OSError, ValueError) as error:
        raise UserError(f"class_texts_file = '{file}' is no readable JSON file: {' '.join(str(error).split())[:120]}") from None
    read = json.loads(text, object_pairs_hook=unique)
    if not isinstance(read, dict):
        raise UserError(f'class_texts_file = \'{file}\' holds no JSON object; write {{"class folder": "sentence", ...}}')
    return read


def _groups(config: ClipData, ids: Sequence[str], files: Sequence[str]) -> np.ndarray | None:
    """Return (N,) group numbers; an image that the pattern does not match is a group of its own."""
    if config.groups_file:
        named = _read_groups(config)
        missing = [identity for identity, file in zip(ids, files, strict=True) if identity not in named and file not in named]
        if missing:
            raise UserError(f"groups_file = '{config.groups_file}' has no group for {len(missing)} images, e.g. {missing[0]}; add them")
        names = [named.get(identity, named.get(file, "")) for identity, file in zip(ids, files, strict=True)]
    elif config.group_pattern:
        found = [re.search(config.group_pattern, file) for file in files]
        if not any(found):
            raise UserError(f"group_pattern = '{config.group_pattern}' matches no image, e.g. not {files[0]}; correct it")
        names = [f"({match[1]})" if match else identity for identity, match in zip(ids, found, strict=True)]
    else:
        return None
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _read_groups(config: ClipData) -> dict[str, str]:
    try:
        text = texts.read(Path(config.groups_file).expanduser(), "groups")
        header = text.partition("\n")[0]
        rows = list(texts.dict_rows(text, delimiter=max(",;\t", key=header.count)))
    except (UserError, csv.Error) as error:
        raise UserError(f"groups_file = '{config.groups_file}' cannot be read: {' '.join(str(error).split())[:120]}") from None
    for column in ("image_path", config.group_column):
        if not rows or column not in rows[0]:
            raise UserError(f"groups_file = '{config.groups_file}' has no column {column}; it needs image_path and {config.group_column}")
    return {row["image_path"].replace("\\", "/"): row[config.group_column] or "" for row in rows}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
