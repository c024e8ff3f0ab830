"""Labels from what `assign` has sorted: one image after another, so that memory does not grow with their number.

assignments.csv and contents.csv, row by row -> is the file still the same? -> a row of images.csv
"""

from __future__ import annotations

import csv
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import digest
from core.data import heap, texts
from core.data.class_names import plain
from core.data.image_stream import VAL
from core.data.images import DECODE_THREADS
from core.data.loader import ahead
from core.errors import UserError
from core.evaluation import answer_files, decisions
from core.evaluation.decisions import Decided, Saved
from core.progress import bar
from core.tracking.uri import resolve

COLUMNS = ("path", "label", "group", "split")
TAKEN = {"core": ("core",), "all": ("core", "border")}
AT_ONCE = 32  # files that one thread reads in turn
Row = Mapping[str, str]


@dataclass(frozen=True)
class Assigned:
    """The answer of an `assign` run: its id, assignments.csv, contents.csv, and what its own clusters.json says."""

    run: str
    rows: Path
    contents: Path
    clusters: Saved

    @classmethod
    def of(cls, run_id: str) -> Assigned:
        """Return the answer that a run has stored; UserError for one that has none."""
        try:
            rows, contents, own = (
                resolve(f"runs:/{run_id}/{name}", "run") for name in ("assignments.csv", "contents.csv", "clusters.json")
            )
        except UserError as error:
            raise UserError(f"run {run_id} has no answer ({error}); let assign end first, or name the run that has one") from None
        said = decisions.parse(texts.read(own, "clusters"), str(own))
        return cls(run_id, rows, contents, Saved(run_id, said.digest, said.clusters))

    def each(self) -> Iterator[tuple[Row, str]]:
        """Yield the row of each image and its sha256, in their order; UserError where the tables are not of one answer."""
        for row, content in itertools.zip_longest(answer_files.each_row(self.rows), answer_files.each_row(self.contents)):
            if row is None or content is None or row["id"] != content["id"]:
                raise UserError(f"assignments.csv and contents.csv of run {self.run} do not belong together: run assign again")
            yield row, content["sha256"]


def decide(assigned: Assigned, saved: Saved, where: str) -> Decided:
    """Return what follows from a person's clusters.json; UserError for a split: what nobody clustered has no halves."""
    people = {plain(row["label"]) for row in answer_files.each_row(assigned.rows) if row["label"]}
    decided = decisions.decide(saved, assigned.clusters, where, people)
    for one in saved.clusters:
        if one.split:
            raise UserError(
                f"{where} splits cluster {one.cluster}, but `assign` finds no halves: name it, or leave its images to pseudo_pipeline"
            )
    return decided


def write(assigned: Assigned, decided: Decided, take: str, file: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Write images.csv; return how many images have which class, and the ids of those that are missing or changed.

    A label that the images came with stays, and goes to copies too; of a named category all but its outliers is labelled (`take` = all), or
    its core alone. Groups stay, and what is held out (split = val), with its copies. Memory grows with the images that came with a label,
    and with those that are no longer the same.
    """
    own = {content: _own(row, decided) for row, content in assigned.each() if row["label"] and row["part"] != heap.TEST}
    held_out = _held_out(assigned)
    classes: Counter[str] = Counter()
    lost: dict[str, list[str]] = {"missing": [], "changed": []}
    with file.open("w", encoding="utf-8-sig", newline="") as out:
        writer = csv.writer(out, lineterminator="\r\n")
        writer.writerow(COLUMNS)
        for batch in ahead(_checked, bar(_batched(assigned.each()), "checking images"), DECODE_THREADS):
            for row, content, wrong in batch:
                if wrong:
                    lost[wrong].append(row["id"])
                test = row["part"] == heap.TEST
                found = decided.labels[int(row["cluster"]), 0] if row["position"] in TAKEN[take] and not test else ""
                label = _own(row, decided) or ("" if test else own.get(content, "") or found)
                classes["\0test" if test else label] += 1
                split = "test" if test else "val" if content in held_out else "train"
                writer.writerow((row["path"], label, row.get("group", ""), split))
    unlabelled, tests = classes.pop("", 0), classes.pop("\0test", 0)
    return {"classes": dict(sorted(classes.items())), "unlabelled": unlabelled, "test": tests}, lost


def _held_out(assigned: Assigned) -> set[str]:
    """Return the contents that people hold out; not those of groups in which a copy trains, which is said: no table may tear a group."""
    held = {content for row, content in assigned.each() if row["part"] == VAL and row["label"]}
    asked = len(held)
    while held:
        train = ((row, content) for row, content in assigned.each() if row["part"] != heap.TEST and content not in held)
        training = {row["group"] for row, _ in train if row.get("group")}
        torn = {content for row, content in assigned.each() if content in held and row.get("group") in training}
        if not torn:
            break
        held -= torn
    if lost := asked - len(held):
        print(
            f"taxon: {lost} held-out images (split = val) or copies of them are in groups with training images: all train now",
            file=sys.stderr,
        )
    return held


def _own(row: Row, decided: Decided) -> str:
    """Return the label that an image came with, as it is called now."""
    label = plain(row["label"])
    return decided.renamed.get(label, label)


def _batched(rows: Iterator[tuple[Row, str]]) -> Iterator[list[tuple[Row, str]]]:
    while batch := list(itertools.islice(rows, AT_ONCE)):
        yield batch


def _checked(batch: list[tuple[Row, str]]) -> list[tuple[Row, str, str]]:
    """Return each row with its content, and how its file is no longer the same ('' = it is)."""
    return [(row, content, _wrong(Path(row["path"]), content)) for row, content in batch]


def _wrong(path: Path, content: str) -> str:
    try:
        return "" if digest.of_bytes(path.read_bytes()) == content else "changed"
    except OSError:
        return "missing"
