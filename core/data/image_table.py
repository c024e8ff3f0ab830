"""Images listed in a table instead of folders: a CSV file with a row an image.

    path, label, truth, group, split      (path alone is required; other columns are passed over)

An empty `label` means that nobody knows. `truth` is for figures only and changes nothing else. Images of one `group` (an object, a scene, a
day) are never split over trained and held-out ones. `split`: train (also when empty), val (a labelled image set apart for model
selection) or test.
"""

from __future__ import annotations

import dataclasses
import filecmp
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from core.data import heap, table_rows
from core.data.class_names import listed, plain
from core.data.heap import Found
from core.data.images import SHOWN, DiscoveryData
from core.data.images import listed as written
from core.data.table_rows import Row, Table
from core.errors import UserError, nearest, shown
from core.places import expanded

SPLITS = ("train", "val", "test")
_LONGEST_PATH = 500  # that an error shows
DATA = "data"
DEFAULT_ROOT = ("", DATA)  # of the option data_root: nobody has given one, or just that


def load(table: str, data_root: str, novel_classes: str = "", bad_images: str = "auto", follow_links: bool = False) -> DiscoveryData:
    """Return the images that a CSV file lists.

    Ids are the paths below the root as the table writes them. Relative paths are taken below `data_root` where it is given, else below the
    table's folder; an absolute path may lie anywhere: the user has written it. `data`, the option's default, may have been given: the
    files are then below `./data` where they are not all beside the table.

    Args:
        novel_classes: labels that are to count as unknown, a simulation: they become truth.
        bad_images, follow_links: as `heap.load` takes them.

    Raises:
        UserError: no such file, no column `path`, files that are missing, or that are others beside the table and below `./data`, one
            path in two rows that differ, a group in two splits, a path that leaves the root, nothing unlabelled; and what `table_rows`
            refuses.
    """
    file = expanded(table, "images")
    rows = once(_rows(file), file)
    files = _files(rows, _root(rows, file, data_root, follow_links), file, follow_links)
    _require_whole_groups(rows, file)
    rows = _hidden(rows, novel_classes)
    found = [
        Found(
            path,
            row.path,
            row.label,
            heap.TEST if row.split == "test" else heap.LABELLED if row.label else heap.UNLABELLED,
        )
        for path, row in zip(files, rows, strict=True)
    ]
    if not any(one.part == heap.UNLABELLED for one in found):
        raise UserError(f"{file} labels every image of it: leave the label of those that are to be sorted empty")
    groups, held_out = [row.group for row in rows], [row.split == "val" for row in rows]
    called = file.stem if file.stem.casefold() != "images" else file.absolute().parent.name or file.stem  # as `relabel` calls it
    name = f"folder/{plain(called)}"
    return heap.assemble(name, found, bad_images, str(file), [row.truth for row in rows], groups, held_out)


def _rows(file: Path) -> list[Row]:
    """Read the table; raise UserError for one that is none, that lacks its columns or says a split that there is not."""
    rows = [settled(row, file) for row in Table(file)]
    if not rows:
        raise UserError(f"images = '{file}' lists no image; give a row an image")
    return rows


def settled(row: Row, file: Path) -> Row:
    """Return a row with its split settled; UserError for a row that cannot be."""
    split = row.split.lower() or "train"
    if split not in SPLITS:
        raise UserError(f"{file}, line {row.line}: split = '{shown(row.split)}' is none of {', '.join(SPLITS)}{nearest(split, SPLITS)}")
    if split == "val" and not row.label:
        raise UserError(f"{file}, line {row.line}: split = val needs a label, by which the image is judged; give one or leave split empty")
    return dataclasses.replace(row, split=split)


def once(rows: list[Row], file: Path) -> list[Row]:
    """Return the rows without repeated ones; UserError for paths that are listed with different labels, splits or groups."""
    first: dict[str, Row] = {}
    clashes, repeated = [], 0
    for row in rows:
        known = first.setdefault(row.path, row)
        if known is not row:
            repeated += 1
            if differs := _difference(known, row):
                clashes.append(f"{shown(row.path)} (lines {known.line} and {row.line}: {differs})")
    if clashes:
        raise UserError(f"{file} lists images twice and not alike: {_some(clashes)}; keep one line of each")
    if repeated:
        print(f"taxon: {file}: {repeated} lines repeat an image and are passed over", file=sys.stderr)
    return list(first.values())


def _difference(one: Row, other: Row) -> str:
    """Return what tells two rows of one image apart, '' for nothing that matters."""
    differ = [name for name in ("label", "split", "group") if getattr(one, name) != getattr(other, name)]
    return ", ".join(
        f"{'' if name == 'label' else f'{name} '}'{shown(getattr(one, name))}' and '{shown(getattr(other, name))}'" for name in differ
    )


def _root(rows: Sequence[Row], file: Path, data_root: str, follow_links: bool) -> Path:
    """Return the folder below which a table names its images; see `load`."""
    if data_root not in DEFAULT_ROOT:
        return table_rows.folder_of(file, data_root)
    beside, below = table_rows.folder_of(file, ""), Path(DATA).resolve()
    if data_root != DATA or not below.is_dir() or below == beside:
        return beside
    others = _all_of(rows, below, file, follow_links)
    if others is None:
        return beside
    files = _all_of(rows, beside, file, follow_links)
    if files is None:
        print(f"taxon: {file}: its images are not beside it; those below ./data are read", file=sys.stderr)
        return below
    if differ := next((row.path for row, *two in zip(rows, files, others, strict=True) if _differ(*two)), ""):
        raise UserError(
            f"{file}: {shown(differ)} is one image beside the table and another below ./data; "
            f"give data_root=./data, or data_root='{beside}'"
        )
    return beside


def _differ(one: Path, other: Path) -> bool:
    """Say whether two files hold different bytes; one that cannot be read is for others to tell."""
    try:
        return one != other and not filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _all_of(rows: Sequence[Row], root: Path, file: Path, follow_links: bool) -> list[Path] | None:
    """Return the file of each row below a folder, None where one is missing there or may not be read."""
    files = []
    for row in rows:
        try:
            path, missing = table_rows.located(row, root, file, follow_links)
        except UserError:
            return None
        if missing:
            return None
        files.append(path)
    return files


def _files(rows: Sequence[Row], root: Path, file: Path, follow_links: bool) -> list[Path]:
    """Return the file of each row; UserError with all that are missing, and for a path that leaves the root."""
    found = [table_rows.located(row, root, file, follow_links) for row in rows]
    missing = [shown(str(path), _LONGEST_PATH) for path, reason in found if reason]
    if missing:
        more = written(missing, "missing") if len(missing) > SHOWN else ""
        some = _some(missing)
        raise UserError(f"{file} names {len(missing)} of {len(rows)} files that are not there: {some}{more}; mend them or give data_root")
    return [path for path, _ in found]


def _require_whole_groups(rows: Sequence[Row], file: Path) -> None:
    """Raise UserError for groups with images in two of training, validation and test."""
    first: dict[str, Row] = {}
    torn: dict[str, tuple[Row, Row]] = {}
    for row in rows:
        if row.group and first.setdefault(row.group, row).split != row.split:
            torn.setdefault(row.group, (first[row.group], row))
    if not torn:
        return
    one, other = sorted({row.split for row in next(iter(torn.values()))}, key=SPLITS.index)
    some = _some([f"{shown(group)} (lines {a.line} and {b.line})" for group, (a, b) in torn.items() if {a.split, b.split} == {one, other}])
    raise UserError(f"{file} has images of one group in {one} and in {other}: {some}; put each group into one of them")


def _hidden(rows: list[Row], novel_classes: str) -> list[Row]:
    """Return the rows with the labels of classes that are to count as novel turned into truth."""
    if not novel_classes:
        return rows
    counts = Counter(row.label for row in rows if row.label)
    novel = listed(novel_classes, tuple(sorted(counts)), "novel_classes")
    return [
        dataclasses.replace(row, label="", truth=row.truth or row.label, split="train" if row.split == "val" else row.split)
        if row.label in novel and row.split != "test"
        else row
        for row in rows
    ]


def _some(things: Sequence[str]) -> str:
    more = f" and {len(things) - SHOWN} more" if len(things) > SHOWN else ""
    return ", ".join(things[:SHOWN]) + more
