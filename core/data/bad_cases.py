"""bad_cases.csv: posts that a model got wrong or was unsure of, as `mine_bad_cases` or a hand lists them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.data.posts import CLASS_NAMES, Posts, check_guids, csv_rows, decode, parse_tags, refuse_escape, require_all
from core.errors import UserError

COLUMNS = ("guid", "true_label", "pred_label", "confidence", "text_path", "image_path", "reason")
REQUIRED = ("guid", "true_label", "text_path", "image_path")  # what variants are made of


@dataclass(frozen=True, eq=False)
class BadCases:
    """Bad cases in the order of their file.

    posts: the posts with their true labels. predicted: names of the predicted classes. confidences: (N,) probability of them.
    reasons: why each is listed. The last three are '' or NaN where a file made by hand does not say them.
    """

    posts: Posts
    predicted: tuple[str, ...]
    confidences: np.ndarray
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.posts)


def write(path: Path, cases: BadCases, data_root: str | Path) -> None:
    """Write bad_cases.csv; paths are relative to `data_root`, or to the CSV's folder for files that lie there.

    The text of a post without a file of its own beside its image goes into `texts/<guid>.txt` beside the CSV.
    """
    roots = (Path(data_root).expanduser().resolve(), path.parent.resolve())
    columns = zip(
        cases.posts.guids,
        cases.posts.tags,
        cases.predicted,
        cases.confidences,
        cases.posts.texts,
        cases.posts.image_paths,
        cases.reasons,
        strict=True,
    )
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for guid, true, predicted, confidence, text, image, reason in columns:
            said = _text_file(guid, text, image, path.parent)
            writer.writerow([guid, true, predicted, f"{confidence:.6f}", _relative(said, roots), _relative(image, roots), reason])


def _text_file(guid: str, text: str, image: Path, folder: Path) -> Path:
    beside = image.with_name(f"{guid}.txt")
    if beside.is_file() and decode(beside.read_bytes())[0].strip() == text:
        return beside
    made = folder / "texts" / f"{guid}.txt"
    made.parent.mkdir(exist_ok=True)
    made.write_text(text, encoding="utf-8")
    return made


def _relative(path: Path, roots: Sequence[Path]) -> str:
    resolved = path.resolve()
    root = next((root for root in roots if resolved.is_relative_to(root)), None)
    if root is None:
        raise UserError(f"{path} lies neither in {roots[0]} nor beside the CSV; give data_root = a folder that holds it")
    return resolved.relative_to(root).as_posix()


def read(path: Path, data_root: str | Path = "", class_names: tuple[str, ...] = CLASS_NAMES) -> BadCases:
    """Return the bad cases of a CSV with at least REQUIRED; paths are looked up in `data_root` ('' = none), then beside the CSV.

    Raises UserError for missing columns or labels, unknown labels, guids that stand twice, files that are missing (all at once) or lead
    out of both folders, and confidences outside 0..1.
    """
    found_rows, places, _encoding = csv_rows(path, COLUMNS, REQUIRED)
    rows = [{name: value.strip() for name, value in row.items()} for row in found_rows]
    check_guids([(row["guid"], place) for row, place in zip(rows, places, strict=True)])
    labels = parse_tags([row["true_label"].lower() for row in rows], places, class_names)
    if labels is None and rows:
        raise UserError(f"{path} has no true_label at all; a bad case without its true label teaches nothing")
    roots = tuple(Path(root).expanduser().resolve() for root in ([data_root] if str(data_root) else []) + [path.parent])
    found = {column: [_located(row[column], roots) for row in rows] for column in ("text_path", "image_path")}
    missing = [
        row[column] or f"the {column} of {row['guid']}" for column in found for row, at in zip(rows, found[column], strict=True) if not at
    ]
    require_all(missing, roots[0], path)
    texts_at, images_at = (tuple(at for at in found[column] if at is not None) for column in ("text_path", "image_path"))
    said = tuple(decode(text.read_bytes())[0].strip() for text in texts_at)
    guids, predicted, reasons = (tuple(row.get(name, "") for row in rows) for name in ("guid", "pred_label", "reason"))
    posts = Posts(guids, said, images_at, np.zeros(0, np.int64) if labels is None else labels, class_names)
    return BadCases(posts, predicted, _confidences(rows, places), reasons)


def _located(name: str, roots: Sequence[Path]) -> Path | None:
    name = name.replace("\\", "/")  # files made on Windows
    path = next((root / name for root in roots if name and (root / name).is_file()), None)
    if path is not None:
        refuse_escape(path, roots)
    return path


def _confidences(rows: Sequence[dict[str, str]], places: Sequence[str]) -> np.ndarray:
    values = np.full(len(rows), np.nan)
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        given = row.get("confidence", "")
        try:
            values[i] = float(given) if given else np.nan
        except ValueError:
            values[i] = -1.0
        if given and not 0 <= values[i] <= 1:
            raise UserError(f"{place}: confidence '{given[:20]}' is no probability; give a number from 0 to 1, or nothing")
    return values
