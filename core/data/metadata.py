"""Metadata CSV files: one row an image, and the class weights that go with them."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.data import texts
from core.data.class_names import MISSING, plain
from core.errors import UserError

COLUMNS = (
    "image_name",
    "image_path",
    "label_61",
    "label_name",
    "crop_type",
    "crop_id",
    "disease",
    "disease_id",
    "severity",
    "is_healthy",
)
LABEL_COLUMNS = ("label_61", "label")  # the first is the older tool's name and wins
GROUP = "group"  # of images that are never parted; written where it is known
FACT_COLUMNS = ("label_name", "crop_type", "crop_id", "disease", "disease_id", "severity")
WEIGHT_COLUMNS = ("label", "class", "count", "weight")


@dataclass(frozen=True)
class Entry:
    """One labelled image file.

    path: where it lies. file: its path below the part's folder, separated by '/'. label: class folder or label id.
    source: where that is said ('train.csv line 5'), for messages. facts: what else is known of its class, by CSV column
    (FACT_COLUMNS); nothing empty. group: of images that are never parted, '' = none.
    """

    path: Path
    file: str
    label: str
    source: str
    facts: Mapping[str, str] = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True)
class ClassWeight:
    """One row of class_weights.csv: label id or class name (whichever is given), weight, and where it stands."""

    label: str
    name: str
    weight: float
    source: str


def read(path: str | Path, folder: str | Path = "") -> list[Entry]:
    """Return the rows of a metadata CSV in file order.

    image_path is relative to `folder`, or to the CSV's own folder where none is given, and may not lead out of it. Only
    image_path and label_61 (a whole number) or label (any text but what stands for a missing value, such as nan) are required, and
    images of one group (an object, a scene, a photograph) are never parted where a part is split off;
    is_healthy follows from severity and is not read. Raises UserError for anything that is missing, empty, no UTF-8, listed
    twice or elsewhere.
    """
    path = Path(path).expanduser()
    rows = _rows(path, "metadata")
    label_column = next((name for name in LABEL_COLUMNS if name in rows[0][1]), None)
    if label_column is None or "image_path" not in rows[0][1]:
        missing = "label_61 (or label)" if label_column is None else "image_path"
        raise UserError(f"{path} has no column {missing}; its columns are: {', '.join(rows[0][1])}")
    base = base_folder(path, folder)
    entries = []
    for source, cells in rows:
        label = _label(cells[label_column], label_column, source)
        facts = {name: _fact(name, cells[name]) for name in FACT_COLUMNS if cells.get(name, "") not in MISSING}
        group = "" if cells.get(GROUP, "") in MISSING else plain(cells[GROUP])
        entries.append(Entry(*locate(base, [cells["image_path"]], source), label, source, facts, group))
    require_complete(entries, path, base)
    return entries


def base_folder(listing: Path, folder: str | Path) -> Path:
    """Return the folder that the paths in `listing` are relative to: `folder`, or where none is given the listing's own."""
    if folder and not Path(folder).expanduser().is_dir():
        raise UserError(f"'{folder}' is not a folder; give the one that the images of {listing} lie in, or none for the file's own")
    return Path(os.path.realpath(Path(folder).expanduser() if folder else listing.parent))


def locate(base: Path, candidates: Sequence[str], source: str) -> tuple[Path, str]:
    """Return (path, path below `base`) of the first candidate that is a file, or of the first one where none is.

    Backslashes separate folders, and letters are composed or decomposed as another system writes them, where no file has that
    very name. Raises UserError when the path leads out of `base`.
    """
    found: list[Path] = []
    for text in candidates:
        for spelling in dict.fromkeys(_spellings(text)):
            path = _below(base, spelling)
            if path is None:
                raise UserError(f"{source}: the image path '{text[:200]}' is empty or leads out of {base}; give paths inside that folder")
            if path.is_file():
                return path, path.relative_to(base).as_posix()
            found.append(path)
    return found[0], found[0].relative_to(base).as_posix()


def _spellings(text: str) -> Iterator[str]:
    for spelling in (text, text.replace("\\", "/")):
        yield spelling
        yield from (unicodedata.normalize(form, spelling) for form in ("NFC", "NFD"))


def _below(base: Path, text: str) -> Path | None:
    """Return base/text, or None when that is no file name, `base` itself, or outside of it, links followed."""
    try:
        path = Path(os.path.normpath(base / text))
        real = Path(os.path.realpath(path))
    except (ValueError, OSError):  # a null byte, half a surrogate pair
        return None
    return path if path != base and path.is_relative_to(base) and real.is_relative_to(base) else None


def require_complete(entries: Sequence[Entry], listing: Path, base: Path) -> None:
    """Raise UserError when a file is listed twice or does not exist."""
    first: dict[str, Entry] = {}
    for entry in entries:
        if first.setdefault(entry.file, entry) is not entry:
            raise UserError(f"{first[entry.file].source} and {entry.source} name the same image '{entry.file}': keep one of them")
    absent = [entry for entry in entries if not entry.path.is_file()]
    if absent:
        one = absent[0]
        raise UserError(
            f"{len(absent)} of the {len(entries)} images in {listing} do not exist below {base}, the first is '{one.file}' "
            f"({one.source}): correct the paths or name the folder that they are relative to"
        )


def write(entries: Iterable[Mapping[str, str]]) -> bytes:
    """Return a metadata CSV with all COLUMNS, and GROUP where a row has one; cells that a row lacks stay empty."""
    rows = list(entries)
    return _written((*COLUMNS, GROUP) if any(row.get(GROUP) for row in rows) else COLUMNS, rows)


def write_weights(rows: Iterable[Mapping[str, str]]) -> bytes:
    """Return a class_weights.csv: label, class, count, weight."""
    return _written(WEIGHT_COLUMNS, rows)


def read_weights(path: str | Path) -> list[ClassWeight]:
    """Return the rows of a class weights CSV: weight, and label (or label_61) or class or both.

    Raises UserError for a missing column and for a weight that is no finite number above 0.
    """
    path = Path(path).expanduser()
    rows = _rows(path, "class weights")
    have = rows[0][1]
    if "weight" not in have or not {"class", *LABEL_COLUMNS} & have.keys():
        raise UserError(f"{path} needs the columns weight and label or class; its columns are: {', '.join(have)}")
    found = []
    for source, cells in rows:
        label = next((cells[name] for name in LABEL_COLUMNS if cells.get(name)), "")
        found.append(
            ClassWeight(whole_number(label) or plain(label), plain(cells.get("class", "")), _weight(cells["weight"], source), source)
        )
    return found


def _weight(text: str, source: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise UserError(f"{source}: weight '{text}' is not a finite number above 0")
    return weight


def whole_number(text: str) -> str:
    """Return a whole number as it is usually written ('07' and '7.0' are '7'); '' when the text is none."""
    return str(int(text.split(".")[0])) if re.fullmatch(r"\d{1,9}(\.0+)?", text, re.ASCII) else ""


def _fact(column: str, text: str) -> str:
    return whole_number(text) or text if column.endswith("_id") else plain(text)


def _label(text: str, column: str, source: str) -> str:
    number = whole_number(text)
    if text in MISSING or (column == "label_61" and not number):
        why = ": it stands for a missing value" if text and text in MISSING else ""
        wanted = "a whole number from 0" if column == "label_61" else "one, or remove the row"
        raise UserError(f"{source}: {column} '{text}' is not a label{why}; give {wanted}")
    return number or plain(text)


def read_text(path: Path, what: str) -> str:
    """Return the text of a file in UTF-8 or with a byte order mark; UserError when it is absent, empty or neither."""
    text = texts.read(path, what)
    if not text.strip():
        raise UserError(f"the {what} file {path} is empty")
    return text


def _rows(path: Path, what: str) -> list[tuple[str, dict[str, str]]]:
    """Return (where, cells by column) of every row of a CSV; at least one. Cells are stripped of surrounding blanks."""
    reader = texts.rows(read_text(path, what), strict=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num} is not CSV: {error}") from None
    header = lines[0][1]
    if len(set(header)) < len(header):
        raise UserError(f"{path} has two columns of one name in its header ({', '.join(header)}): rename or remove one")
    if len(lines) == 1:
        raise UserError(f"{path} has no rows below its header ({', '.join(header)})")
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise UserError(f"{path} line {number} has {len(cells)} cells, the header has {len(header)}: mend the line")
    return [(f"{path.name} line {number}", dict(zip(header, cells, strict=True))) for number, cells in lines[1:]]


def _written(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
