"""Images listed in a table instead of folders: a CSV file with a row an image.

    path, label, truth, group, split      (path alone is required; other columns are passed over)

An empty `label` means that nobody knows. `truth` is for figures only and changes nothing else. Images of one `group` (an object, a scene, a
day) are never split over labelled and held-out ones. `split`: train (also when empty), val (a labelled image set apart for model
selection) or test.
"""

from __future__ import annotations

import codecs
import csv
import io
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas

from core.data import heap
from core.data.class_folders import check
from core.data.class_names import MISSING, listed, plain
from core.data.heap import Found
from core.data.images import SHOWN, DiscoveryData
from core.data.images import listed as written
from core.errors import UserError, nearest

COLUMNS = ("path", "label", "truth", "group", "split")
SPLITS = ("train", "val", "test")
DEFAULT_ROOT = ("", "data")  # of the option data_root: nobody has given one
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True)
class Row:
    """One row: its line in the file, and what its cells say, blanks trimmed."""

    line: int
    path: str
    label: str
    truth: str
    group: str
    split: str


def load(table: str, data_root: str, novel_classes: str = "", bad_images: str = "auto", follow_links: bool = False) -> DiscoveryData:
    """Return the images that a CSV file lists.

    Ids are the paths below the root as the table writes them. Relative paths are taken below `data_root` where it is given, else below the
    table's folder; an absolute path may lie anywhere: the user has written it.

    Args:
        novel_classes: labels that are to count as unknown, a simulation: they become truth.
        bad_images, follow_links: as `heap.load` takes them.

    Raises:
        UserError: no such file, no column `path`, files that are missing, one path with two labels, a group in train and test, a path that
            leaves the root, nothing unlabelled.
    """
    file = Path(table).expanduser()
    rows = _once(_rows(file), file)
    root = (file.parent if data_root in DEFAULT_ROOT else Path(data_root).expanduser()).resolve()
    if not root.is_dir():
        raise UserError(f"data_root '{data_root}', below which {file} names its images, is not a folder; give that folder or leave it out")
    files = _files(rows, root, file, follow_links)
    _require_whole_groups(rows, file)
    rows = _hidden(rows, novel_classes)
    found = [
        Found(
            path,
            Path(row.path).as_posix(),
            row.label,
            heap.TEST if row.split == "test" else heap.LABELLED if row.label else heap.UNLABELLED,
        )
        for path, row in zip(files, rows, strict=True)
    ]
    if not any(one.part == heap.UNLABELLED for one in found):
        raise UserError(f"{file} labels every image of it: leave the label of those that are to be sorted empty")
    groups, held_out = [row.group for row in rows], [row.split == "val" for row in rows]
    name = f"folder/{plain(file.stem)}"
    return heap.assemble(name, found, bad_images, str(file), [row.truth for row in rows], groups, held_out)


def _rows(file: Path) -> list[Row]:
    """Read the table; raise UserError for one that is none, that lacks its columns or says a split that there is not."""
    try:
        text = _text(file.read_bytes())
    except OSError as error:
        raise UserError(f"images = '{file}' cannot be read ({error.strerror}); give a CSV file with the column path") from None
    first = text.lstrip("\n").split("\n", 1)[0]
    try:
        cells = pandas.read_csv(
            io.StringIO(text),
            sep=separator(first),
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
            engine="python",
            quoting=csv.QUOTE_MINIMAL,
        ).fillna("")  # the cells that a short row lacks
    except (ValueError, csv.Error, pandas.errors.ParserError) as error:
        raise UserError(f"images = '{file}' is no table ({' '.join(str(error).split())[:100]}); its first line names the columns") from None
    names = {str(name).strip().lower(): name for name in cells.columns}
    if "path" not in names:
        known = ", ".join(map(str, cells.columns))
        raise UserError(f"images = '{file}' has no column path{nearest('path', list(names))} (it has: {known}); name it so")
    columns = {name: [str(cell).strip() for cell in cells[names[name]]] if name in names else [""] * len(cells) for name in COLUMNS}
    rows = [Row(i + 2, *cells_of) for i, cells_of in enumerate(zip(*columns.values(), strict=True))]
    rows = [_settled(row, file) for row in rows if any((row.path, row.label, row.truth, row.group, row.split))]
    if not rows:
        raise UserError(f"images = '{file}' lists no image; give a row an image")
    return rows


def _text(content: bytes) -> str:
    """Return the text of a file of any usual encoding, with line feeds as line ends."""
    encoding = next((name for bom, name in BOMS if content.startswith(bom)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def separator(header: str) -> str:
    """Return what separates the cells of a header: the most frequent of semicolon, tab and comma."""
    return max(";\t,", key=lambda mark: (header.count(mark), mark == ","))


def _settled(row: Row, file: Path) -> Row:
    """Return a row with its class names composed and its split settled; UserError for a row that cannot be."""
    if not row.path:
        raise UserError(f"{file}, line {row.line}: the cell of path is empty; name the image or remove the line")
    split = row.split.lower() or "train"
    if split not in SPLITS:
        raise UserError(f"{file}, line {row.line}: split = '{row.split}' is none of {', '.join(SPLITS)}{nearest(split, SPLITS)}")
    if split == "val" and row.label in MISSING:
        raise UserError(f"{file}, line {row.line}: split = val needs a label, by which the image is judged; give one or leave split empty")
    path = Path(slashed(row.path)).as_posix()  # ./a and a are one file
    label, truth = ("" if text in MISSING else plain(text) for text in (row.label, row.truth))
    return Row(row.line, path, label, truth, row.group, split)


def _once(rows: list[Row], file: Path) -> list[Row]:
    """Return the rows without repeated ones; UserError for paths that are listed with different labels."""
    first: dict[str, Row] = {}
    clashes, repeated = [], 0
    for row in rows:
        known = first.setdefault(row.path, row)
        if known is not row:
            repeated += 1
            if (known.label, known.split) != (row.label, row.split):
                clashes.append(f"{row.path} (lines {known.line} and {row.line}: '{known.label}' and '{row.label}')")
    if clashes:
        raise UserError(f"{file} lists images twice and not alike: {_some(clashes)}; keep one line of each")
    if repeated:
        print(f"taxon: {file}: {repeated} lines repeat an image and are passed over", file=sys.stderr)
    return list(first.values())


def _files(rows: Sequence[Row], root: Path, file: Path, follow_links: bool) -> list[Path]:
    """Return the file of each row; UserError with all that are missing, and for a path that leaves the root."""
    paths = [file_of(row.path, root) for row in rows]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        more = written(map(str, missing), "missing") if len(missing) > SHOWN else ""
        shown = _some([str(path) for path in missing])
        raise UserError(f"{file} names {len(missing)} of {len(rows)} files that are not there: {shown}{more}; mend them or give data_root")
    for row, path in zip(rows, paths, strict=True):
        check(path, path.resolve().parent)  # its name alone
        if not Path(row.path).is_absolute() and not follow_links and not path.resolve().is_relative_to(root):
            raise UserError(f"{file}, line {row.line}: {row.path} leads out of {root}; allow it with follow_links=true")
    return paths


def slashed(path: str) -> str:
    """Return a path as this system has it: one that Windows wrote has backslashes."""
    return path.replace("\\", "/") if "\\" in path and not Path(path).is_absolute() else path


def file_of(path: str, root: Path) -> Path:
    """Return the file that a cell names, below `root` unless its path is absolute."""
    path = slashed(path)
    return Path(path).expanduser() if Path(path).is_absolute() else root / path


def _require_whole_groups(rows: Sequence[Row], file: Path) -> None:
    """Raise UserError for groups with images in training and test."""
    splits: Mapping[str, set[bool]] = defaultdict(set)
    for row in rows:
        if row.group:
            splits[row.group].add(row.split == "test")
    torn = sorted(group for group, where in splits.items() if len(where) > 1)
    if torn:
        raise UserError(f"{file} has images of one group in train and in test: {_some(torn)}; put each group into one of them")


def _hidden(rows: list[Row], novel_classes: str) -> list[Row]:
    """Return the rows with the labels of classes that are to count as novel turned into truth."""
    if not novel_classes:
        return rows
    counts = Counter(row.label for row in rows if row.label)
    novel = listed(novel_classes, tuple(sorted(counts)), "novel_classes")
    return [
        Row(row.line, row.path, "", row.truth or row.label, row.group, "train" if row.split == "val" else row.split)
        if row.label in novel and row.split != "test"
        else row
        for row in rows
    ]


def _some(things: Sequence[str]) -> str:
    more = f" and {len(things) - SHOWN} more" if len(things) > SHOWN else ""
    return ", ".join(things[:SHOWN]) + more
