"""Bad cases of the training posts: those that a classifier which never saw them gets wrong or is unsure of.

Each post is predicted by a classifier trained on the other folds (out-of-fold), early stopped on the validation part, or all of them
by a given one that has seen none. Validation and test posts are never mined: what is learnt from them could not be measured any more.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from core import config as configuration
from core import digest
from core.data import bad_cases, post_splits
from core.data.bad_cases import BadCases
from core.data.posts import Posts
from core.errors import UserError
from core.evaluation import compare
from core.lineage import NOTHING
from core.places import write_atomically
from core.plots import figure, mistakes, reliability
from core.stages import execute, leakage
from core.stages.posts import model, optimize, results
from core.stages.posts.config import OptimizeClipConfig
from core.stages.posts.config_tools import MineBadCasesConfig
from core.stages.posts.folds import fold_of, groups_of
from core.tracking import stage
from core.tracking.recorder import Recorder

ENTRY_POINT = "mine_bad_cases"
FOLDER = "bad_cases"
WRONG, UNSURE = "wrong", "low confidence"
REMEDY = "bad cases are mined from training posts only: remove these rows"
KEPT = "out_of_fold.npy"
PICKLED = (".pt", ".pth", ".bin")  # checkpoints of the older tool, which are never read
_SIDE = 224  # of thumbnails


def run(config: MineBadCasesConfig, run: Recorder) -> dict[str, Any]:
    """Write bad_cases/bad_cases.csv, oof_predictions.csv, report.json and two pictures; return the report."""
    _check(config)
    with results.made_in(run, FOLDER, config.output_dir) as (folder, publish):
        train, val, source = read(config)
        leakage.require_unseen(config, results.items_of(train), "training posts, which are to be predicted out of fold")
        groups = groups_of(train, source)
        run.dataset("posts/train", train.digest, config.data_root, "training")
        kept: list[Path] = []
        if config.model:
            folds, probabilities = np.full(len(train), ""), by_model(config.model, train)
        else:
            folds = fold_of(train, groups, config.folds, config.seed)
            probabilities, kept = out_of_fold(config, train, val, folds, run)
        cases, rows = find(train, probabilities, config.confidence_below)
        bad_cases.write(folder / "bad_cases.csv", cases, config.data_root)
        _write_predictions(folder / "oof_predictions.csv", train, folds, probabilities)
        _draw(folder, train, probabilities, cases, rows, config.shown)
        report = describe(train, probabilities, cases, groups) | {"confidence_below": config.confidence_below}
        report |= {"folds": 0 if config.model else config.folds, "model": config.model}
        (folder / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
        publish(report)
    for place in kept:  # not before: a picture that cannot be drawn must not cost the trainings
        shutil.rmtree(place, ignore_errors=True)
    run.metrics(report["metrics"], 0)
    print(summary_of(report))
    return report


def _check(config: MineBadCasesConfig) -> None:
    if config.weights.startswith(("runs:/", "models:/")) or config.weights.endswith(PICKLED):
        raise UserError(
            f"weights = '{config.weights}' would be those of CLIP towers; give the classifier that mines as model (a run of optimize_clip)"
        )
    configuration.check_limits(config)


def read(config: MineBadCasesConfig) -> tuple[Posts, Posts, list[str]]:
    """Return training posts, validation posts and, of each training post, the guid that it is a variant of (its own where none).

    Raises UserError when a training row is a validation or test post.
    """
    path = results.part_path(config, "train")
    train, val = results.read_part(config, "train"), results.read_part(config, "val")
    held_out = {"validation": val, "test": results.read_part(config, "test")}
    source = [given or guid for given, guid in zip(post_splits.read_column(path, "source_guid"), train.guids, strict=True)]
    results.refuse_leaks(train, held_out, str(path), REMEDY)
    results.refuse_sources(source, held_out, str(path), REMEDY)
    return train, val, source


def by_model(given: str, train: Posts) -> np.ndarray:
    """Return (N, C) probabilities of the classifier behind a URI, in one pass.

    Raises UserError where it has learnt from one of the posts, was chosen on one, or tells other classes apart.
    """
    predictor = model.open_predictor(given)
    record = getattr(predictor, "lineage", NOTHING)
    leakage.refuse(results.items_of(train), (record.learnt, record.chosen), "training posts, which are to be predicted", "model", given)
    if tuple(predictor.class_names) != train.class_names:
        raise UserError(f"model = '{given}' tells {', '.join(predictor.class_names)} apart, the posts are {', '.join(train.class_names)}")
    return predictor.probabilities(train.texts, model.images_of(train, predictor.image_size))


def out_of_fold(config: MineBadCasesConfig, train: Posts, val: Posts, folds: np.ndarray, run: Recorder) -> tuple[np.ndarray, list[Path]]:
    """Return (N, C) probabilities, each row by a classifier that was trained without the row's fold, and where the folds are kept.

    Finished folds are kept until the caller removes them, and the checkpoints of the one in work: after a crash neither is done again.
    """
    training = configuration.fitted(OptimizeClipConfig, config, register=False)
    probabilities = np.full((len(train), len(train.class_names)), np.nan)
    posts_key = optimize.key_of(training, {"train": train, "val": val})
    places = []
    for fold in range(int(folds.max()) + 1):
        seen, unseen = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        key = digest.of_json([ENTRY_POINT, posts_key, folds.tolist(), fold])
        places.append(stage.work_folder(key))
        with execute.locked(key):
            probabilities[unseen] = _of_fold(training, train.subset(seen), val, train.subset(unseen), places[-1])
        right = float((probabilities[unseen].argmax(axis=1) == train.truth[unseen]).mean())
        run.metrics({"oof/fold_accuracy": right}, fold)
    return probabilities, places


def _of_fold(training: OptimizeClipConfig, seen: Posts, val: Posts, asked: Posts, place: Path) -> np.ndarray:
    """Return (n, C) probabilities of the posts of a fold: those of before, where they lie whole in `place`, or by a training there."""
    kept = place / KEPT
    found = _read_kept(kept, (len(asked), len(asked.class_names)))
    if found is None:
        predictor = model.train_on(training, seen, val, place)
        found = predictor.probabilities(asked.texts, model.pictures(predictor, asked))
        buffer = io.BytesIO()
        np.save(buffer, found, allow_pickle=False)
        write_atomically(kept, buffer.getvalue(), "the predictions of a fold")
    return found


def _read_kept(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Return finite probabilities of this shape, or None where the file is absent or damaged."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and np.isfinite(found).all() else None


def find(train: Posts, probabilities: np.ndarray, confidence_below: float) -> tuple[BadCases, np.ndarray]:
    """Return the bad cases, wrong ones first, surest mistakes first, and their rows in `train`."""
    predicted, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong, unsure = predicted != train.truth, confidences < confidence_below
    rows = np.flatnonzero(wrong | unsure)
    rows = rows[np.lexsort((rows, np.where(wrong[rows], -confidences[rows], confidences[rows]), ~wrong[rows]))]
    reasons = [", ".join(name for name, holds in ((WRONG, wrong[i]), (UNSURE, unsure[i])) if holds) for i in rows]
    names = tuple(train.class_names[c] for c in predicted[rows])
    return BadCases(train.subset(rows), names, confidences[rows], tuple(reasons)), rows


def describe(train: Posts, probabilities: np.ndarray, cases: BadCases, groups: np.ndarray) -> dict[str, Any]:
    """Return the JSON-ready report: scores with intervals over whole groups, bad cases by reason and class."""
    found = {name: vars(compare.bootstrap_interval(train.truth, probabilities, name, groups=groups)) for name in ("accuracy", "macro_f1")}
    by_class = {
        name: {"posts": int((train.truth == c).sum()), "bad": cases.posts.tags.count(name)} for c, name in enumerate(train.class_names)
    }
    wrong = sum(reason.startswith(WRONG) for reason in cases.reasons)
    metrics = {f"oof/{name}": interval["value"] for name, interval in found.items()}
    return {
        "posts": len(train),
        "bad_cases": len(cases),
        "wrong": wrong,
        "only_low_confidence": len(cases) - wrong,
        "by_class": by_class,
        "out_of_fold": found,
        "data_digest": train.digest,
        "metrics": metrics | {"oof/bad_cases": float(len(cases))},
    }


def _write_predictions(path: Path, train: Posts, folds: np.ndarray, probabilities: np.ndarray) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["guid", "fold", "true_label", "pred_label", *(f"p_{name}" for name in train.class_names)])
        for guid, fold, tag, row in zip(train.guids, folds.tolist(), train.tags, probabilities, strict=True):
            writer.writerow([guid, fold, tag, train.class_names[row.argmax()], *(f"{value:.6f}" for value in row)])


def _draw(folder: Path, train: Posts, probabilities: np.ndarray, cases: BadCases, rows: np.ndarray, shown: int) -> None:
    """Draw the first bad cases as thumbnails, and the reliability of all out-of-fold predictions."""
    shown_posts = cases.posts.subset(range(min(shown, len(cases))))
    if len(shown_posts):
        images = model.images_of(shown_posts, _SIDE).transpose(0, 2, 3, 1)
        n = len(shown_posts)
        page = mistakes.mistakes(images, shown_posts.tags, cases.predicted[:n], cases.confidences[:n].tolist(), shown_posts.texts)
        figure.save(page, folder / "bad_cases.png")
    figure.save(reliability.reliability(train.truth, probabilities), folder / "oof_reliability.png")


def summary_of(report: dict[str, Any]) -> str:
    """Return the lines that are printed."""
    said = "  ".join(f"{name} {i['value']:.3f} [{i['low']:.3f}, {i['high']:.3f}]" for name, i in report["out_of_fold"].items())
    classes = "  ".join(f"{name} {counts['bad']} of {counts['posts']}" for name, counts in report["by_class"].items())
    how = f"by {report['model']}" if report["model"] else f"out of fold ({report['folds']} folds)"
    return (
        f"{report['posts']} training posts, {how}: {said}\n"
        f"{report['bad_cases']} bad cases: {report['wrong']} wrong, {report['only_low_confidence']} right but below "
        f"{report['confidence_below']:g}; {classes}"
    )
