"""Image files one after another, however many there are: listed from a folder or a table, never held as a whole.

They are gone through twice: once to be counted and checked (links, names, files that a table names and that are absent), then to be read.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.data import class_folders, heap, image_table
from core.data.class_names import plain
from core.data.images import UnreadableImages
from core.errors import UserError, nearest

NEW = "new"  # the part of images that no data set has put into one
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Listed:
    """An image file: where it lies, its id, and the label and part that its place gives it ('' and NEW where that says nothing)."""

    path: Path
    id: str
    label: str = ""
    part: str = NEW


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
                seen.update(f"{one.id}\0{one.path.stat().st_size}\0".encode("utf-8", "backslashreplace"))
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
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"data_root = '{folder}' is not a folder; give a folder of images, or images=<file.csv>")
    root = root.resolve()
    parted = heap.is_heap(root)

    def listing() -> Iterator[Listed]:
        for path in class_folders.walk(root, root, follow_links, {root}):
            if path.suffix.lower() not in class_folders.EXTENSIONS or path.is_dir():
                continue
            class_folders.check(path, root, follow_links)
            yield _of_heap(path, root) if parted else Listed(path, class_folders.below(path, root))

    return ImageStream(listing, f"data_root '{folder}'")


def _of_heap(path: Path, root: Path) -> Listed:
    part, *folders, _name = path.relative_to(root).parts
    said = part in (heap.LABELLED, heap.TEST) and bool(folders)
    named = part if part in (heap.LABELLED, heap.UNLABELLED, heap.TEST) else NEW
    return Listed(path, class_folders.below(path, root), plain(folders[0]) if said else "", named)


def of_table(table: str, data_root: str = "", follow_links: bool = False) -> ImageStream:
    """Return the images that the column `path` of a CSV file lists, in its order; a column `label`, where there is one, is passed on.

    Paths start from `data_root`, or from the file's folder where none is given; an absolute one may lie anywhere. The spellings of a table
    are those that `image_table` reads.
    """
    file = Path(table).expanduser()
    root = (Path(data_root).expanduser() if data_root else file.parent).resolve()
    if not root.is_dir():
        raise UserError(f"data_root '{data_root}', below which {file} names its images, is not a folder; give that folder or leave it out")
    encoding = _encoding(file)

    def listing() -> Iterator[Listed]:
        for row in _rows(file, encoding):
            path, written = image_table.file_of(row["path"], root), row["path"]
            if not Path(written).is_absolute() and not follow_links and not path.resolve().is_relative_to(root):
                raise UserError(f"{file}: {written} leads out of {root}; allow it with follow_links=true")
            yield Listed(path, written, row.get("label") or "")

    return ImageStream(listing, f"images '{table}'")


def _encoding(file: Path) -> str:
    """Return the encoding of a table: what its byte order mark says, UTF-8, or Windows's own where it is no UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with file.open("rb") as opened:
            start = opened.read(_BLOCK)
            if marked := next((name for mark, name in image_table.BOMS if start.startswith(mark)), ""):
                return marked
            while start:
                decoder.decode(start)
                start = opened.read(_BLOCK)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "cp1252"
    except OSError as error:
        raise UserError(f"images = '{file}' cannot be read ({error.strerror}); give a CSV file with the column path") from None
    return "utf-8"


def _rows(file: Path, encoding: str) -> Iterator[dict[str, str]]:
    """Yield the rows by lower-case column name; UserError where the file is no table with a column path, or a row names none."""
    with file.open(encoding=encoding, errors="replace") as opened:
        header = next((line for line in opened if line.strip()), "")
        separator = image_table.separator(header)
        names = [name.strip().lower() for name in next(csv.reader([header], delimiter=separator), [])]
        if "path" not in names:
            raise UserError(f"images = '{file}' has no column path{nearest('path', names)} (it has: {', '.join(names)}); name it so")
        reader = csv.reader(opened, delimiter=separator, skipinitialspace=True, strict=True)
        try:
            for row in reader:
                found = {name: value.strip() for name, value in zip(names, row, strict=False)}
                if any(found.values()) and not found.get("path"):
                    raise UserError(f"{file}, row {reader.line_num + 1}: the cell of path is empty; name the image or remove the line")
                if found.get("path"):
                    yield found
        except csv.Error as error:
            raise UserError(f"images = '{file}' is no table ({error} in row {reader.line_num + 1}); mend the row") from None
