"""Predicting posts without tags: one line guid,tag for every guid, in the order in which they came."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Any

from core import digest
from core.data import post_splits, texts
from core.data import posts as post_files
from core.data.posts import Posts
from core.errors import UserError
from core.stages.posts import model
from core.stages.posts.config_tools import PredictConfig
from core.training.state import write_atomically

ENTRY_POINT = "predict_test_clip"
SCORE = "best/val/macro_f1"


def run(config: PredictConfig, run: Any) -> dict[str, Any]:
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
    """Return (URI, classifier) of the highest validation macro-F1 among `uris`; one alone needs no score.

    Raises:
        UserError: one cannot be opened, or of several one does not say how it did on validation.
    """
    opened = [(one, model.open_predictor(one)) for one in uris]
    if len(opened) == 1:
        return opened[0]
    scores = {one: getattr(predictor, "about", {}).get(SCORE) for one, predictor in opened}
    silent = [one for one, score in scores.items() if score is None]
    if silent:
        raise UserError(
            f"weights: '{silent[0]}' does not say how it did on validation; give runs of {model.optimize.ENTRY_POINT}, or one alone"
        )
    return max(opened, key=lambda pair: scores[pair[0]])


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
