"""Image files one after another, however many there are: listed from a folder or a table, never held as a whole.

They are gone through twice: once to be counted and checked (links, names, files that a table names and that are absent), then to be read.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.data import class_folders, heap, image_table, table_rows
from core.data.class_names import plain
from core.data.images import UnreadableImages
from core.data.table_rows import Table
from core.errors import UserError
from core.places import expanded

NEW, VAL = "new", "val"  # the parts of images that no data set has put into one, and of those that a table sets apart (split = val)
_PARTS = {"train": NEW, "val": VAL, "test": heap.TEST}  # of the splits that a table says


@dataclass(frozen=True)
class Listed:
    """An image file: where it lies, its id, and the label, part and group that its place or row gives it ('', NEW and '' = none)."""

    path: Path
    id: str
    label: str = ""
    part: str = NEW
    group: str = ""


class ImageStream:
    """Files in a fixed order, listed anew each time.

    Attributes:
        where: what an error line names.
        count: how many there are.
        digest: sha256 of their ids and sizes in bytes.

    Raises:
        UserError: there is none, or one may not be read. UnreadableImages: all that are not there.
    """

    def __init__(self, listing: Callable[[], Iterator[Listed]], where: str):
        self._listing, self.where, self.count = listing, where, 0
        seen, missing = hashlib.sha256(), []
        for one in listing():
            self.count += 1
            try:
                status = one.path.stat()
                if not stat.S_ISREG(status.st_mode):
                    missing.append((one.path, "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"))
                seen.update(f"{one.id}\0{status.st_size}\0".encode("utf-8", "backslashreplace"))
            except OSError as error:
                missing.append((one.path, (error.strerror or "cannot be read").lower()))
        if missing:
            raise UnreadableImages(missing, self.count)
        if not self.count:
            raise UserError(f"{where} holds no image ({class_folders.USUAL}); give a folder of images, in any folders below it")
        self.digest = seen.hexdigest()

    def __iter__(self) -> Iterator[Listed]:
        return self._listing()


def of_folder(folder: str, follow_links: bool = False) -> ImageStream:
    """Return the images below a folder, in order of their paths; those of a heap carry its parts, and its labels.

    Raises UserError for what is no folder, a link that leads out of it unless it may, no image at all.
    """
    root = require_folder(folder)
    parted = heap.is_heap(root)

    def listing() -> Iterator[Listed]:
        for path in class_folders.walk(root, root, follow_links, {root}):
            if path.suffix.lower() not in class_folders.EXTENSIONS or path.is_dir():
                continue
            class_folders.check(path, root, follow_links)
            yield _of_heap(path, root) if parted else Listed(path, class_folders.below(path, root))

    return ImageStream(listing, f"data_root '{folder}'")


def require_folder(folder: str) -> Path:
    """Return the absolute path of a folder of images; UserError for what is none."""
    root = expanded(folder, "data_root")
    if not root.is_dir():
        raise UserError(f"data_root = '{folder}' is not a folder; give a folder of images, or images=<file.csv>")
    return root.resolve()


def _of_heap(path: Path, root: Path) -> Listed:
    part, *folders, _name = path.relative_to(root).parts
    said = part in (heap.LABELLED, heap.TEST) and bool(folders)
    named = part if part in (heap.LABELLED, heap.UNLABELLED, heap.TEST) else NEW
    return Listed(path, class_folders.below(path, root), plain(folders[0]) if said else "", named)


def of_table(table: str, data_root: str = "", follow_links: bool = False) -> ImageStream:
    """Return the images that the column `path` of a CSV file lists, in its order; label, group and split, where there are any, are kept.

    Paths start from `data_root`, or from the file's folder where none is given; an absolute one may lie anywhere. Tables are read as
    those of a heap are (`table_rows`, `image_table`): an image that is listed twice counts once, and raises UserError where its rows
    differ.
    """
    file = expanded(table, "images")
    root, rows = table_rows.folder_of(file, data_root), Table(file)
    first = _first_lines(rows, file)

    def listing() -> Iterator[Listed]:
        for row in rows:
            if first.get(row.path, row.line) == row.line:
                path, _absent = table_rows.located(row, root, file, follow_links)
                yield Listed(path, row.path, row.label, _PARTS[image_table.settled(row, file).split], row.group)

    return ImageStream(listing, f"images '{table}'")


def _first_lines(rows: Table, file: Path) -> dict[str, int]:
    """Return the first line of each path that is listed more than once. Held are 8 bytes a row, and the rows that are repeated."""
    hashes = np.fromiter((hash(row.path) for row in rows), np.int64)
    values, counts = np.unique(hashes, return_counts=True)
    repeated = set(values[counts > 1].tolist())
    found = [image_table.settled(row, file) for row in rows if hash(row.path) in repeated] if repeated else []
    return {row.path: row.line for row in image_table.once(found, file)}
