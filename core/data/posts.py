"""Posts of one short text and one image each: `train.txt` (header guid,tag) beside `data/<guid>.txt` and `data/<guid>.jpg`."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core import digest
from core.data import perceptual_hash, texts
from core.data.class_folders import EXTENSIONS
from core.data.decoding import read_rgb
from core.data.images import DECODE_THREADS, FileImages
from core.errors import UserError, nearest
from core.progress import bar

CLASS_NAMES = ("negative", "neutral", "positive")
ENCODINGS = ("utf-8", "gb18030", "latin-1")  # whose texts are counted, be there any or not
NO_TAG = "null"
_LAYOUT = "expected {root}/train.txt with the header guid,tag and {root}/data/<guid>.txt|jpg"
_SHOWN = 8  # names in a list of missing files
_CONTROL = {code: None for code in range(32) if chr(code) not in "\t\n\r"} | {127: None}


class Fingerprint(NamedTuple):
    """What tells images apart: sha256 of the file, and the 256-bit difference hash of what it shows ('' for plain surfaces)."""

    content: str
    look: str


@dataclass(frozen=True, eq=False)
class Posts:
    """Posts in the order of their file.

    guids: unique. texts: decoded, stripped; '' where the file holds nothing. image_paths: existing files.
    labels: (N,) int64 index into class_names, or None where no post has a tag.
    encodings: how many texts were decoded as what. guessed: encoding -> names of the files of which it was a guess.
    """

    guids: tuple[str, ...]
    texts: tuple[str, ...]
    image_paths: tuple[Path, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...] = CLASS_NAMES
    encodings: Mapping[str, int] = field(default_factory=dict)
    guessed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self):
        if not len(self.guids) == len(self.texts) == len(self.image_paths):
            raise ValueError(f"{len(self.guids)} guids, {len(self.texts)} texts and {len(self.image_paths)} images do not match")
        if self.labels is not None and (self.labels.dtype != np.int64 or len(self.labels) != len(self.guids)):
            raise ValueError(f"labels must be int64 ({len(self.guids)},), not {self.labels.dtype} {self.labels.shape}")
        if len(set(self.guids)) != len(self.guids):
            raise ValueError("guids are not unique")

    def __len__(self) -> int:
        return len(self.guids)

    @property
    def truth(self) -> np.ndarray:
        """The labels (N,) int64; ValueError for posts without."""
        if self.labels is None:
            raise ValueError("these posts have no labels")
        return self.labels

    @property
    def tags(self) -> tuple[str, ...]:
        """The class name of each post; '' without labels."""
        return ("",) * len(self) if self.labels is None else tuple(self.class_names[label] for label in self.labels)

    @property
    def n_empty(self) -> int:
        """How many posts have an empty text."""
        return sum(not text for text in self.texts)

    def subset(self, indices: Sequence[int] | np.ndarray) -> Posts:
        """Return the posts at `indices`, in that order (without `encodings`, which were counted over all)."""
        guids, said = (tuple(column[i] for i in indices) for column in (self.guids, self.texts))
        labels = None if self.labels is None else self.labels[np.asarray(indices, np.int64)]
        found = Posts(guids, said, tuple(self.image_paths[i] for i in indices), labels, self.class_names)
        if "fingerprints" in self.__dict__:  # no picture is read again for each fold
            found.__dict__["fingerprints"] = tuple(self.fingerprints[i] for i in indices)
        return found

    def images(self) -> FileImages:
        """Return the pixels; every file is checked first."""
        return FileImages(self.image_paths)

    @cached_property
    def fingerprints(self) -> tuple[Fingerprint, ...]:
        """The fingerprint of each image; UserError naming the first file that is no readable image."""
        with ThreadPoolExecutor(DECODE_THREADS) as pool:
            return tuple(bar(pool.map(fingerprint, self.image_paths), "comparing images", total=len(self)))

    @cached_property
    def digest(self) -> str:
        """The sha256 of guids, texts, labels, class names and image files."""
        labels = None if self.labels is None else self.labels.tolist()
        return digest.of_json([self.guids, self.texts, labels, self.class_names, [image.content for image in self.fingerprints]])


def load(data_root: str | Path, index: str = "train.txt") -> Posts:
    """Return the posts that `data_root/<index>` names, in its order; tags that are all `null` give no labels.

    Raises UserError, in one line each, for a missing folder or index, a foreign header or row, an unknown tag, some tags missing,
    a guid twice or that is no file name, files that are missing (all of them at once) or lead out of the folder.
    """
    root = folder_of(data_root)
    rows = read_index(root / index)
    labels = parse_tags([tag for _, tag, _ in rows], [where for *_, where in rows])
    files = _files(root)
    guids = tuple(guid for guid, *_ in rows)
    written = {f"{guid}.txt": files.get(f"{guid}.txt") for guid in guids}
    pictured = {f"{guid}.jpg": next((files[guid + kind] for kind in EXTENSIONS if guid + kind in files), None) for guid in guids}
    wanted = written | pictured
    require_all([name for name, path in wanted.items() if path is None], root / "data", root / index)
    texts_at, images_at = ([path for path in found.values() if path is not None] for found in (written, pictured))
    decoded = [decode(path.read_bytes()) for path in texts_at]
    counts = Counter(encoding for _, encoding, _ in decoded)
    encodings = {encoding: counts[encoding] for encoding in (*ENCODINGS, *sorted(counts.keys() - set(ENCODINGS)))}
    guessed: dict[str, list[str]] = {}
    for path, (_, encoding, guess) in zip(texts_at, decoded, strict=True):
        if guess:
            guessed.setdefault(encoding, []).append(path.name)
    named = {encoding: tuple(names) for encoding, names in sorted(guessed.items())}
    return Posts(guids, tuple(text.strip() for text, *_ in decoded), tuple(images_at), labels, encodings=encodings, guessed=named)


def decode(content: bytes) -> tuple[str, str, bool]:
    """Return the text, its encoding, and whether that was a guess (core.data.texts).

    Control characters (a broken file's; no post means them) are left out.
    """
    text, encoding, guessed = texts.decode(content)
    return text.translate(_CONTROL), encoding, guessed


def csv_rows(path: Path, columns: Sequence[str], required: Collection[str]) -> tuple[list[dict[str, str]], list[str], str]:
    """Return the rows of a CSV with a header of any case (comma, semicolon or tab), where each stands, and the file's encoding.

    Raises UserError for a file that is no CSV, lacks a column of `required`, or has a row of another length than the header;
    `columns` is what it says there should be.
    """
    try:
        text, encoding, guessed = decode(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a CSV with {','.join(columns)}") from None
    if guessed:
        texts.announce_guess(path, encoding)
    header = text.partition("\n")[0]
    reader = texts.dict_rows(text, delimiter=max(",;\t", key=header.count), strict=True)
    rows, places = [], []
    try:
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        missing = next((name for name in columns if name in required and name not in names), None)
        if missing:
            raise UserError(f"{path} has no column '{missing}'{nearest(missing, names)}; its columns are {','.join(columns)}")
        reader.fieldnames = names
        for row in reader:
            places.append(f"{path} line {reader.line_num}")
            if None in row or None in row.values():
                raise UserError(f"{places[-1]} does not have the {len(names)} fields of the header; quote what holds commas or line breaks")
            rows.append(row)
    except csv.Error as error:
        raise UserError(f"{path} line {reader.reader.line_num} is not valid CSV ({error}); mend the quotes there") from None
    return rows, places, encoding


def folder_of(data_root: str | Path) -> Path:
    """Return the absolute folder of the posts; UserError for what is none."""
    root = Path(data_root).expanduser()
    if not str(data_root) or not root.is_dir():
        raise UserError(f"data_root '{data_root}' is not a folder; {_LAYOUT.format(root=data_root or 'data_root')}")
    return root.resolve()


def read_index(path: Path) -> list[tuple[str, str, str]]:
    """Return (guid, tag in lower case, where) of each row of a file with the header `guid,tag`: comma, tab or space."""
    try:
        lines = decode(path.read_bytes())[0].splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {_LAYOUT.format(root=path.parent)}") from None
    rows = [(_cells(line), f"{path} line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not rows or [cell.lower() for cell in rows[0][0]] != ["guid", "tag"]:
        said = f"starts with '{lines[0][:40]}'" if rows else "is empty"
        raise UserError(f"{path} {said}; its first line must be the header guid,tag (comma, tab or space)")
    if len(rows) == 1:
        raise UserError(f"{path} has a header but no row; add one line guid,tag for each post")
    for cells, where in rows[1:]:
        if len(cells) != 2:
            raise UserError(f"{where} has {len(cells)} fields, expected guid,tag: '{' '.join(cells)[:60]}'")
    found = [(cells[0], cells[1].lower(), where) for cells, where in rows[1:]]
    check_guids([(guid, where) for guid, _, where in found])
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip("\"'") for cell in re.split(r"\s*,\s*|\s+", line.strip())]


def check_guids(found: Sequence[tuple[str, str]]) -> None:
    """Raise UserError for the first (guid, where) whose guid is no plain file name, or stands a second time."""
    seen: dict[str, str] = {}
    for guid, where in found:
        if not guid or re.search(r"[/\\\0]", guid) or guid in (".", ".."):
            raise UserError(f"{where}: guid '{guid}' is not a file name; use letters, digits, '-' and '_'")
        if guid in seen:
            raise UserError(f"{where}: guid '{guid}' stands a second time, first in {seen[guid].rpartition('/')[2]}; remove one")
        seen[guid] = where


def parse_tags(tags: Sequence[str], where: Sequence[str], class_names: tuple[str, ...] = CLASS_NAMES) -> np.ndarray | None:
    """Return (N,) int64 labels of the tags, None when none has one ('null' or ''); UserError for unknown ones or a mixture."""
    missing = [tag in ("", NO_TAG) for tag in tags]
    if all(missing):
        return None
    for tag, place, none in zip(tags, where, missing, strict=True):
        if none:
            raise UserError(
                f"{place} has no tag while {len(tags) - sum(missing)} other posts have one; move posts to predict to their own file"
            )
        if tag not in class_names:
            raise UserError(f"{place}: unknown tag '{tag}'{nearest(tag, class_names)} (tags are {', '.join(class_names)})")
    return np.array([class_names.index(tag) for tag in tags], np.int64)


def require_all(missing: Sequence[str], folder: Path, named_by: Path) -> None:
    """Raise one UserError that lists the missing files (the first eight, and how many more)."""
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise UserError(
            f"{folder} lacks {len(missing)} file{'s' * (len(missing) > 1)} of {named_by.name}: {', '.join(missing[:_SHOWN])}{more}; "
            "add them or remove their rows"
        )


def _files(root: Path) -> dict[str, Path]:
    """Return the files of root/data by name, the suffix in lower case; UserError for links that lead out of `root`."""
    folder = root / "data"
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; {_LAYOUT.format(root=root)}")
    refuse_escape(folder, (root,))
    found = {}
    for entry in os.scandir(folder):
        if entry.is_symlink():
            refuse_escape(Path(entry.path), (root,))
        if entry.is_file():
            stem, suffix = os.path.splitext(entry.name)
            found[stem + suffix.lower()] = Path(entry.path)
    return found


def refuse_escape(path: Path, roots: Sequence[Path]) -> None:
    """Raise UserError when `path` really lies outside of all `roots` (data must not pull in foreign files)."""
    if not any(path.resolve().is_relative_to(root) for root in roots):
        raise UserError(f"{path} leads out of {roots[0]}: copy the file there instead")


def fingerprint(path: Path) -> Fingerprint:
    """Return the fingerprint of an image file; UserError when it is no readable image.

    The look is a difference hash, `perceptual_hash.look`, and `perceptual_hash.alike` compares them.
    """
    try:
        content = path.read_bytes()
        return Fingerprint(digest.of_bytes(content), perceptual_hash.look(read_rgb(content, draft=perceptual_hash.ENOUGH)))
    except Exception as error:  # Pillow raises almost anything on damaged files
        raise UserError(f"{path}: not a readable image ({' '.join(str(error).split())[:120]}); mend or remove the file") from None
