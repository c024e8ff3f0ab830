"""The files of an answer. The same answer gives the same bytes, and reading a file back gives the same values.

Tables are CSV as RFC 4180 has it, in UTF-8 with a byte order mark: without one, spreadsheets take UTF-8 for something else, and pandas and
`rows_of` pass over it. Cells that a spreadsheet would take for a formula get an apostrophe in front, as OWASP's "CSV Injection" advises:
texts that begin with = + - @ or a blank that is not seen (tab, line break), after any apostrophes. `rows_of` takes it away; whoever reads
with pandas finds it, on such cells only. What a file name holds that is no Unicode is written as `\\udc80` to `\\udcff`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.data import texts
from core.data.images import Skipped
from core.errors import UserError
from core.evaluation.answer import ALONE, POSITIONS, Answer, Category

FORMAT = "taxon-clusters/1"
MARK = b"\xef\xbb\xbf"
ASSIGNMENTS = (
    *("path", "id", "cluster", "name", "known", "confidence", "margin", "position"),
    *("duplicate_group", "part", "label", "half"),
)
ASSIGNED = (*ASSIGNMENTS, "group")  # by `assign`, which does not come back to the table that its images are from
CLUSTERS = (
    *("cluster", "name", "known", "size", "cohesion", "separation", "nearest", "nearest_name", "expected_purity", "confidence"),
    *("exemplars", "borders", "outliers"),
)
CONTENTS = ("id", "sha256", "part")  # part: train or test; answers of older versions have no such column, and no test images
OUTLIERS = ("path", "id", "cluster", "name", "confidence", "margin", "part", "label")
DUPLICATES = ("group", "path", "id", "part", "label", "name")
SUGGESTED = ("rank", "path", "id", "cluster", "name", "position", "confidence", "reason")
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_SURROGATE = re.compile(r"\\u(dc[89a-f][0-9a-f])")

Row = Mapping[str, Any]


def write(
    answer: Answer,
    folder: Path,
    run_id: str,
    skipped: Sequence[Skipped] = (),
    suggested: Sequence[Row] = (),
    tests: Sequence[tuple[str, str]] = (),
) -> list[Path]:
    """Write every file of an answer into `folder`, made where it is missing; return their paths.

    assignments.csv, clusters.csv, clusters.json, outliers.csv, duplicates.csv, contents.csv, skipped.csv and suggest.csv (`suggested`:
    what `core.evaluation.suggest.suggest` returns; `tests`: id and sha256 of each image for testing, of which no other file tells).
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        "assignments.csv": table(ASSIGNMENTS, assignments(answer)),
        "clusters.csv": table(CLUSTERS, clusters(answer)),
        "clusters.json": clusters_json(answer, run_id),
        "outliers.csv": table(OUTLIERS, outliers(answer)),
        "duplicates.csv": table(DUPLICATES, duplicates(answer)),
        "contents.csv": table(CONTENTS, contents(answer, tests)),
        "skipped.csv": table(("path", "reason"), ({"path": one.path, "reason": one.reason} for one in skipped)),
        "suggest.csv": table(SUGGESTED, suggested),
    }
    for name, content in made.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in made]


def assignments(answer: Answer) -> Iterable[Row]:
    """Yield the row of each image, in their order."""
    for i in range(len(answer)):
        yield image_row(answer, i) | {"duplicate_group": int(answer.duplicates[i]), "half": int(answer.halves[i])}


def contents(answer: Answer, tests: Sequence[tuple[str, str]]) -> Iterable[Row]:
    """Yield the row of each image of contents.csv, those for testing last."""
    for part, pairs in (("train", zip(answer.ids, answer.contents, strict=True)), ("test", iter(tests))):
        yield from (dict(zip(CONTENTS, (*pair, part), strict=True)) for pair in pairs)


def clusters(answer: Answer) -> Iterable[Row]:
    """Yield the row of each category; examples are ids, separated by '|'."""
    names = {category.cluster: category.name for category in answer.categories}
    for category in answer.categories:
        examples = {kind: "|".join(answer.ids[row] for row in getattr(category, kind)) for kind in ("exemplars", "borders", "outliers")}
        yield (
            {name: getattr(category, name) for name in CLUSTERS if hasattr(category, name)}
            | examples
            | {"nearest_name": names.get(category.nearest, "")}
        )


def clusters_json(answer: Answer, run_id: str) -> bytes:
    """Return what `relabel` reads once a person has named, merged, split or dropped categories: as found, nothing is decided.

    The page writes the same: `merge` is the cluster that another is merged into, `names` of a split one are those of its two halves
    ('' = stays unnamed).
    """
    decided = {"merge": None, "split": False, "drop": False}
    found = [
        {**_plain(category), "exemplars": [answer.ids[row] for row in category.exemplars], **decided} for category in answer.categories
    ]
    value = {"format": FORMAT, "run": run_id, "digest": answer.digest, "clusters": found}
    return (json.dumps(value, indent=1, ensure_ascii=True) + "\n").encode()


def outliers(answer: Answer) -> Iterable[Row]:
    """Yield the row of each outlier: cluster by cluster, the least like its fellows first as far as the category lists them."""
    strange = np.flatnonzero(answer.positions == POSITIONS.index("outlier"))
    rank = {row: i for category in answer.categories for i, row in enumerate(category.outliers)}
    for row in sorted(strange.tolist(), key=lambda row: (answer.clusters[row], rank.get(row, len(answer)), row)):
        yield image_row(answer, row)


def duplicates(answer: Answer) -> Iterable[Row]:
    """Yield the row of each image that has near-duplicates, group by group."""
    grouped = np.flatnonzero(answer.duplicates != ALONE)
    for row in grouped[np.argsort(answer.duplicates[grouped], kind="stable")]:
        yield image_row(answer, int(row)) | {"group": int(answer.duplicates[row])}


def table(columns: Sequence[str], rows: Iterable[Row]) -> bytes:
    """Return a CSV of the rows' values of these columns. None and a missing value are empty, as is -1 of a group: the image is alone."""
    return MARK + (",".join(columns) + "\r\n").encode() + lines(columns, rows)


def lines(columns: Sequence[str], rows: Iterable[Row]) -> bytes:
    """Return what `table` writes below the header: for a file that grows."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    for row in rows:
        writer.writerow([_cell(name, row.get(name)) for name in columns])
    return text.getvalue().encode("utf-8", "backslashreplace")


def rows_of(path: str | Path) -> list[dict[str, str]]:
    """Return the rows of a CSV that `table` made, each text as it was given; numbers are texts, too.

    UserError where there is no such file, or it is no CSV with a header.
    """
    path = Path(path)
    return list(_dicts(texts.rows(texts.read(path, path.stem), strict=True), path))


def each_row(path: Path) -> Iterator[dict[str, str]]:
    """Yield what `rows_of` returns, a row at a time: of a table of any size."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _dicts(csv.reader(file, strict=True), path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); write it again") from None


def _dicts(reader: texts.Rows, path: Path) -> Iterator[dict[str, str]]:
    try:
        header = next(reader, None)
        if header is None:
            raise UserError(f"{path} is empty; write it again")
        for number, line in enumerate(reader, 2):
            if len(line) != len(header):
                raise UserError(f"{path} row {number} has {len(line)} cells, its header {len(header)}: mend the row")
            yield dict(zip(header, map(_text, line), strict=True))
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num} is not CSV: {error}; write it again") from None


def image_row(answer: Answer, row: int) -> dict[str, Any]:
    """Return what the tables say of an image."""
    category = answer.categories[int(answer.clusters[row])]
    return {
        "path": answer.paths[row],
        "id": answer.ids[row],
        "cluster": category.cluster,
        "name": category.name,
        "known": category.known,
        "confidence": float(answer.confidences[row]),
        "margin": float(answer.margins[row]),
        "position": POSITIONS[int(answer.positions[row])],
        "part": answer.parts[row],
        "label": answer.labels[row],
    }


def _plain(category: Category) -> dict[str, Any]:
    names = ("cluster", "name", "known", "size", "cohesion", "separation", "nearest", "expected_purity", "confidence")
    return {name: getattr(category, name) for name in names}


def _cell(column: str, value: Any) -> str:
    if value is None or (column == "duplicate_group" and value == ALONE):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}" if _FORMULA.match(value) else value
    return repr(value)


def _text(cell: str) -> str:
    """Return the text that `_cell` made a cell of."""
    cell = cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
    return _SURROGATE.sub(lambda found: chr(int(found[1], 16)), cell) if "\\ud" in cell else cell
