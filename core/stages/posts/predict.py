"""Predicting posts without tags: one line guid,tag for every guid, in the order in which they came."""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core import digest, lineage
from core.data import post_splits, texts
from core.data import posts as post_files
from core.data.posts import Posts
from core.errors import UserError
from core.evaluation import compare
from core.lineage import NOTHING
from core.places import write_atomically
from core.stages.posts import model
from core.stages.posts.config_tools import PredictConfig
from core.tracking.recorder import Recorder
from core.tracking.uri import resolve

ENTRY_POINT = "predict_test_clip"
SCORE = "best/val/macro_f1"
# What a training run keeps of its own validation part.
RECORD = Path("evaluation") / "val" / "predictions.csv"


def run(config: PredictConfig, run: Recorder) -> dict[str, Any]:
    """Run `predict_test_clip`; return how many posts got which tag."""
    if not config.weights.strip():
        raise UserError("weights is empty; give a run (runs:/<id>), folder or checkpoint of optimize_clip")
    target = output_file(config.output)
    rows = rows_of(config)
    name, predictor = best_predictor([one.strip() for one in config.weights.split(",") if one.strip()])
    run.dataset("posts to predict", digest.of_json(list(rows.guids)), config.predict_csv or config.data_root, "prediction")
    run.started()
    needed = getattr(predictor, "needs_images", True)
    probabilities = predictor.probabilities(rows.texts, model.pictures(predictor, rows) if needed else None)
    tags = [predictor.class_names[best] for best in probabilities.argmax(axis=1)]
    content = table_of(rows.guids, tags)
    check(content, rows.guids, predictor.class_names)
    counts = {tag: Counter(tags)[tag] for tag in predictor.class_names}
    run.write("test_with_label.txt", lambda path: path.write_text(content, encoding="utf-8"), "predictions")
    run.write("confidence.csv", lambda path: path.write_text(confidences(rows.guids, tags, probabilities), encoding="utf-8"), "predictions")
    run.json({"weights": name, "tags": counts}, "predictions.json", "predictions")
    if target is not None:
        write_atomically(target, content.encode(), "the predictions")
    run.metrics({f"predicted/{tag}": float(count) for tag, count in counts.items()}, 0)
    run.tags({"taxon.weights": name})
    print(f"{len(tags)} posts by {name}: " + ", ".join(f"{tag} {count}" for tag, count in counts.items()))
    return {"weights": name, "posts": len(tags), "tags": counts}


def rows_of(config: PredictConfig) -> Posts:
    """Return the posts to predict, in the order of their file."""
    if not config.predict_csv:
        return post_files.load(config.data_root, config.test_file)
    from core.tracking import uri

    return post_splits.read_csv(uri.resolve(config.predict_csv, "predict_csv"), config.data_root)


def best_predictor(uris: list[str]) -> tuple[str, model.PostPredictor]:
    """Return (URI, classifier) of the highest macro-F1 on the validation posts that all of `uris` hold out; one alone needs no score.

    Raises:
        UserError: one cannot be opened, or of several one does not say how it did on validation, or they have no such post in common.
    """
    opened = [(one, model.open_predictor(one)) for one in uris]
    if len(opened) == 1:
        return opened[0]
    parts = {getattr(predictor, "lineage", NOTHING).chosen for _, predictor in opened}
    scores = _own_scores(opened) if len(parts) == 1 and all(parts) else _common_scores(opened)
    return max(opened, key=lambda pair: scores[pair[0]])


def _own_scores(opened: Sequence[tuple[str, model.PostPredictor]]) -> dict[str, float]:
    """Return what each classifier says of itself, all on the same validation posts."""
    said = {one: getattr(predictor, "about", {}).get(SCORE) for one, predictor in opened}
    scores: dict[str, float] = {one: score for one, score in said.items() if score is not None}
    for one in said:
        if one not in scores:
            raise UserError(
                f"weights: '{one}' does not say how it did on validation; give runs of {model.optimize.ENTRY_POINT}, or one alone"
            )
    return scores


def _common_scores(opened: Sequence[tuple[str, model.PostPredictor]]) -> dict[str, float]:
    """Return macro-F1 by URI on the posts, the same by content and label, that each held out and that none has learnt from."""
    tables = {one: _validation(one) for one, _ in opened}
    learnt = [getattr(predictor, "lineage", NOTHING).learnt for _, predictor in opened]
    rows = sorted(set.intersection(*(set(table) for table in tables.values())))
    known = set(lineage.matching([tuple(content.split()) for content, _ in rows], *learnt))
    common = [row for place, row in enumerate(rows) if place not in known]
    if not common:
        raise UserError(f"weights: {', '.join(tables)} have no validation post in common; train them on one split, or give one alone")
    print(f"taxon: their validation parts differ: they are compared on the {len(common)} posts that all hold out", file=sys.stderr)
    names = sorted({said for table in tables.values() for said in table.values()} | {true for _, true in common})
    labels = np.array([names.index(true) for _, true in common])
    once = np.ones((1, len(common)))
    return {
        one: float(compare.weighted_scores("macro_f1", once, labels, np.array([names.index(table[row]) for row in common]))[0])
        for one, table in tables.items()
    }


def _validation(uri: str) -> dict[tuple[str, str], str]:
    """Return (content, true) -> predicted of the validation posts of the run behind `uri`; UserError where it keeps none."""
    path = resolve(uri, "weights")
    record = next((folder / RECORD for folder in (path, *path.parents[:2]) if (folder / RECORD).is_file()), None)
    rows = [] if record is None else list(texts.dict_rows(record.read_text(encoding="utf-8")))
    if not rows or "content" not in rows[0]:
        raise UserError(
            f"weights: '{uri}' does not say how it did on which validation post ({RECORD}); give runs of "
            f"{model.optimize.ENTRY_POINT} that held out the same validation posts, or one alone"
        )
    return {(row["content"], row["true"]): row["predicted"] for row in rows}


def table_of(guids: tuple[str, ...], tags: list[str]) -> str:
    """Return the lines guid,tag with their header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["guid", "tag"])
    writer.writerows(zip(guids, tags, strict=True))
    return buffer.getvalue()


def check(content: str, guids: tuple[str, ...], class_names: tuple[str, ...]) -> None:
    """Read the written lines back: every guid once, in its order, each with a known tag; ValueError otherwise."""
    rows = list(texts.rows(content))
    if rows[0] != ["guid", "tag"] or [row[0] for row in rows[1:]] != list(guids):
        raise ValueError("the predictions do not name every guid in the input's order")
    if unknown := {row[1] for row in rows[1:]} - set(class_names):
        raise ValueError(f"tags {unknown} are not among {class_names}")


def confidences(guids: tuple[str, ...], tags: list[str], probabilities: Any) -> str:
    """Return a CSV guid,tag,confidence."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["guid", "tag", "confidence"])
    writer.writerows((guid, tag, f"{row.max():.6f}") for guid, tag, row in zip(guids, tags, probabilities, strict=True))
    return buffer.getvalue()


def output_file(given: str) -> Path | None:
    """Return the output file, its folder made before anything is computed; UserError when it cannot be."""
    if not given:
        return None
    path = Path(given).expanduser()
    if path.is_dir():
        raise UserError(f"output = '{given}' is a folder; give a file name in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output = '{given}': its folder cannot be made ({error.strerror}); give another place") from None
    return path
