"""The rows of a table of images, one after another, however many there are: the one way in which tables are read.

Tables are taken as pandas, spreadsheets and people write them: commas, semicolons or tabs, with or without quotes, marks of byte order,
any line ends, columns in any order and letter case, commas at the end of rows.
"""

from __future__ import annotations

import codecs
import csv
import os
import re
import stat
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from core.data.class_folders import check
from core.data.class_names import MISSING, is_text, plain
from core.data.texts import ANYTHING, CERTAIN, MARKS, WIDE, announce_guess, decode
from core.errors import UserError, misspelt, nearest, shown
from core.places import expanded

COLUMNS = ("path", "label", "truth", "group", "split")
_CLASSES = ("label", "truth")
_MEANT = {"class": "label", "category": "label"}  # what people call a column of ours
_DECLARED = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # the first line of a table that a spreadsheet is to open
_BLOCK = 1 << 20
_SAMPLE = 1 << 16  # bytes of cells from which an encoding is guessed
_COLUMNS_SHOWN = 20


@dataclass(frozen=True)
class Row:
    """One row: the line of the file where it begins, and what its cells say.

    Blanks are trimmed, the path has this system's slashes, class names are in one spelling; what stands for a missing value is ''.
    written: the path as the file has it, where it has backslashes, which may be of a name ('' = it has none).
    """

    line: int
    path: str
    label: str = ""
    truth: str = ""
    group: str = ""
    split: str = ""
    written: str = ""


class Table:
    """A CSV file with a row an image; each iteration reads it anew and yields a `Row` for each line that is not empty.

    The first one says on stderr which columns were passed over and which words were read as a missing value. Where the bytes are not of
    one encoding that is certain, cells are told apart as bytes (separators, quotes and line ends are ASCII) and each is decoded by
    itself: whatever stands in the column `truth`, the others say the same.

    Raises:
        UserError: the file cannot be read, is no table, has no column `path`, a column twice, or one that is meant to be another; while
            it is gone through: a row without a path or with more cells than the header, a class name that is no text.
    """

    def __init__(self, file: Path):
        self.file = file
        self._encoding = _certain(file)
        self._guesses: dict[str, str] = {}
        self._told = False
        with self._opened() as opened:
            self._separator, self._names, self._skip = self._header(opened)
        if not self._encoding:
            self._guesses = self._guessed()

    def _opened(self) -> TextIO:
        try:
            return self.file.open(encoding=self._encoding or ANYTHING, errors="replace")
        except OSError as error:
            raise _unreadable(self.file, error) from None

    def _header(self, opened: TextIO) -> tuple[str, list[str], int]:
        """Return what separates cells, the names of the columns in lower case, and how many lines come before the first row."""
        declared, lines, line = "", 0, ""
        for line in opened:
            lines += 1
            line = line.removeprefix("\ufeff") if lines == 1 else line
            if not declared and (said := _DECLARED.fullmatch(line)):
                declared = said[1]
            elif line.strip():
                break
        line = line if self._encoding else decode(line.encode(ANYTHING))[0]
        mark = declared or separator(line)
        try:
            names = [name.strip() for name in next(csv.reader([line], delimiter=mark, skipinitialspace=True, strict=True), [])]
        except csv.Error as error:
            raise UserError(f"images = '{self.file}' is no table ({error} in line {lines}); its first line names the columns") from None
        lower = [name.lower() for name in names]
        if "path" not in lower:
            known = shown(", ".join(name for name in names if name))
            raise UserError(f"images = '{self.file}' has no column path{nearest('path', lower)} (it has: {known}); name it so")
        twice = next((name for name in COLUMNS if lower.count(name) > 1), "")
        if twice:
            raise UserError(f"images = '{self.file}' has two columns {twice}; rename or remove one")
        for name in lower:
            meant = _MEANT.get(name) or misspelt(name, COLUMNS)
            if name not in COLUMNS and meant and meant not in lower:
                raise UserError(
                    f"images = '{self.file}' has a column {shown(name)} and none called {meant}; did you mean '{meant}'? rename it so"
                )
        return mark, lower, lines

    def _guessed(self) -> dict[str, str]:
        """Return the encoding of each column that is read, and say so where it is a guess: the truth's is guessed from the truth alone."""
        said, truth = _Telling(), _Telling()
        for _, cells in self._lines():
            for name, cell in zip(self._names, cells, strict=False):
                if name in COLUMNS and not cell.isascii():
                    (truth if name == "truth" else said).add(cell.encode(ANYTHING))
        for telling in (said, truth):
            if not telling.is_certain:
                announce_guess(self.file, telling.encoding)
        return dict.fromkeys(COLUMNS, said.encoding) | {"truth": truth.encoding}

    def __iter__(self) -> Iterator[Row]:
        missing = Counter[str]()
        for line, cells in self._lines():
            yield self._row(cells, line, missing)
        self._tell(missing)

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line where each row begins that is not empty, and its cells as they stand in the file."""
        with self._opened() as opened:
            for _ in range(self._skip):
                next(opened, "")
            reader = csv.reader(opened, delimiter=self._separator, skipinitialspace=True, strict=True)
            begins = self._skip + 1
            try:
                for cells in reader:
                    if any(cell.strip() for cell in cells):
                        yield begins, cells
                    begins = self._skip + reader.line_num + 1
            except csv.Error as error:
                raise UserError(f"images = '{self.file}' is no table ({error} in line {begins}); mend the quotes there") from None

    def _row(self, cells: Sequence[str], line: int, missing: Counter[str]) -> Row:
        if any(cell.strip() for cell in cells[len(self._names) :]):
            raise UserError(
                f"{self.file}, line {line} has {len(cells)} cells, and the header names {len(self._names)}: "
                f"put what holds a '{self._separator}' into quotes, or remove what is too much"
            )
        said = dict(zip(self._names, cells, strict=False))
        found = {name: self._decoded(name, said.get(name, "")).strip() for name in COLUMNS}
        found |= {name: plain(found[name]) for name in _CLASSES}
        for name in COLUMNS[1:]:
            if found[name] and found[name] in MISSING:
                missing[f"{name} '{found[name]}'"] += 1
                found[name] = ""
        for name in _CLASSES:
            if not is_text(found[name]):
                raise UserError(f"{self.file}, line {line}: {name} = '{shown(found[name])}' holds characters that are no text")
        if not found["path"]:
            raise UserError(f"{self.file}, line {line}: the cell of path is empty; name the image or remove the line")
        path = found.pop("path")
        return Row(line, Path(slashed(path)).as_posix(), **found, written=path if "\\" in path else "")  # ./a and a are one file

    def _decoded(self, name: str, cell: str) -> str:
        return cell.encode(ANYTHING).decode(self._guesses[name], "replace") if self._guesses and not cell.isascii() else cell

    def _tell(self, missing: Counter[str]) -> None:
        others = [name for name in self._names if name and name not in COLUMNS]
        if others and not self._told:
            more = ", ..." if len(others) > _COLUMNS_SHOWN else ""
            print(f"taxon: {self.file}: columns passed over: {', '.join(map(shown, others[:_COLUMNS_SHOWN]))}{more}", file=sys.stderr)
        if missing and not self._told:
            words = ", ".join(f"{word} {count}" for word, count in missing.most_common())
            print(
                f"taxon: {self.file}: cells that stand for a missing value are read as empty ({words}); "
                "a class that is called so needs another name",
                file=sys.stderr,
            )
        self._told = True


def _certain(file: Path) -> str:
    """Return the encoding that the byte order mark of a table says, or UTF-8, or '' for one that is neither."""
    decoder = codecs.getincrementaldecoder(CERTAIN)()
    try:
        with file.open("rb") as opened:
            start = opened.read(_BLOCK)
            if marked := next((name for mark, name in MARKS if start.startswith(mark)), ""):
                return marked
            while start:
                decoder.decode(start)
                start = opened.read(_BLOCK)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return ""
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None
    return CERTAIN


class _Telling:
    """Cells that say something about their encoding, those that are no ASCII: as many are kept as make a guess a safe one."""

    def __init__(self) -> None:
        self.is_certain = True
        self._cells: list[bytes] = []
        self._size = 0

    def add(self, cell: bytes) -> None:
        self.is_certain = self.is_certain and _is_certain(cell)
        if self._size <= _SAMPLE:
            self._cells.append(cell)
            self._size += len(cell)

    @property
    def encoding(self) -> str:
        """The encoding of all cells; a separator of one byte has told them apart, so that it is none of WIDE."""
        found = CERTAIN if self.is_certain else decode(b"\n" + b"\n".join(self._cells))[1]  # a cell's first bytes are no mark
        return ANYTHING if found in WIDE else found


def _is_certain(cell: bytes) -> bool:
    try:
        return bool(cell.decode(CERTAIN))
    except UnicodeDecodeError:
        return False


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(f"images = '{file}' cannot be read ({_reason(error)}); give a CSV file with the column path")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def separator(header: str) -> str:
    """Return what separates the cells of a header: the most frequent of semicolon, tab and comma."""
    return max(";\t,", key=lambda mark: (header.count(mark), mark == ","))


def folder_of(file: Path, data_root: str) -> Path:
    """Return the folder below which a table names its images: `data_root`, or the table's own where that is ''; UserError for none."""
    root = expanded(data_root or file.parent, "data_root").resolve()
    if not root.is_dir():
        raise UserError(f"data_root '{data_root}', below which {file} names its images, is not a folder; give that folder or leave it out")
    return root


def slashed(path: str) -> str:
    """Return a path as this system has it: one that Windows wrote has backslashes."""
    return path.replace("\\", "/") if "\\" in path and not Path(path).is_absolute() else path


def located(row: Row, root: Path, file: Path, follow_links: bool) -> tuple[Path, str]:
    """Return the file that a row names, below `root` unless its path is absolute, and why it is not there ('' = it is).

    Where no file is so called, other spellings of the name are tried: composed and decomposed letters, backslashes as letters.

    Args:
        file: the table, for messages.
        follow_links: a path may lead out of `root`.

    Raises:
        UserError: no system could have such a file, or it may not be read.
    """
    path, reason = _examined(row, root / row.path, root, file, follow_links)
    if reason and not row.path.isascii():
        path, reason = _examined(row, _spelt(root, row.path), root, file, follow_links)
    if reason and row.written:
        other, still = _examined(row, root / row.written, root, file, follow_links)
        path, reason = (path, reason) if still else (other, "")
    return path, reason


def _spelt(root: Path, path: str) -> Path:
    """Return a path below `root` as it is there: what systems call by one name has letters that are composed on one and not on others."""
    found = root
    for part in Path(path).parts:
        spellings = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        found /= next((one for one in spellings if os.path.lexists(found / one)), part)
    return found


def _examined(row: Row, path: Path, root: Path, file: Path, follow_links: bool) -> tuple[Path, str]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return path, "no file"
        real = path.resolve()
    except (FileNotFoundError, NotADirectoryError) as error:
        return path, _reason(error).lower()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, a link to itself
        raise UserError(f"{file}, line {row.line}: '{shown(row.path)}' cannot be read ({_reason(error)}); mend the path") from None
    check(path, real.parent)  # its name alone
    if not Path(row.path).is_absolute() and not follow_links and not real.is_relative_to(root):
        raise UserError(f"{file}, line {row.line}: {shown(row.path)} leads out of {root}; allow it with follow_links=true")
    return path, ""
