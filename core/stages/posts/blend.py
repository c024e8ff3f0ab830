"""Posts by towers and n-grams together: one probability of three classifiers', weighed by how they do on posts they have not seen.

The members are the towers with a `base` head, a regression on n-grams and, where images are seen, one on the frozen image tower's
features. Weights and offsets are fitted to the training posts' probabilities out of fold; validation and test posts have no part in them
but that validation stops each training of towers, as it does everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from core.data import post_splits
from core.data.posts import Posts
from core.errors import UserError
from core.evaluation.scorer import scorer
from core.models.blend import Blend
from core.models.ngrams import NgramClassifier
from core.models.post_head_names import BLEND
from core.serving.posts_blend import BlendPredictor
from core.stages import after
from core.stages.posts import checks, folds, materials, publish, reference
from core.stages.posts.config import OptimizeClipConfig
from core.stages.posts.materials import Materials
from core.tracking import stage
from core.tracking.recorder import Recorder

TOWERS = "towers"
FOLDS = 5  # fewer where a class has fewer groups of posts


class TrainedTowers(Protocol):
    """A training of towers after its last epoch, with the best epoch's weights."""

    def probabilities(self, part: str) -> np.ndarray:
        """Return (N, C) of a part."""

    def predictor(self) -> Any:
        """Return the classifier."""


Train = Callable[[OptimizeClipConfig, dict[str, Posts], Path], TrainedTowers]


def fit(config: OptimizeClipConfig, m: Materials, folder: Path, train: Train) -> publish.Fitted:
    """Fit members and weights on the training rows; return the classifier and what it says of the other parts.

    Args:
        folder: for the checkpoints of the towers; those that are there already are continued.
        train: trains towers on given rows in a folder.
    """
    inner = checks.with_variant(config, "base")
    towers = train(inner, m.rows, folder / TOWERS)  # before the folds, which then find the locked towers' features together
    net, seen = reference.image_side(config, m)
    labels, n_classes = m.rows["train"].truth, len(m.class_names)
    fold_of = _folds(config, m)
    names, unseen = out_of_fold(inner, m, seen["train"], fold_of, folder, train)
    score, metric = scorer(checks.watched(config), n_classes, m.class_counts), checks.watched(config)
    blend = Blend.fit(unseen, labels, lambda found: score(labels, found.argmax(axis=1)))
    ngrams = NgramClassifier.fit(reference.settings_of(config), m.texts["train"], seen["train"], labels, n_classes)
    held_out = [part for part in m.rows if part != "train"]
    members = {part: np.stack([towers.probabilities(part), *ngrams.by_side(m.texts[part], seen[part]).values()]) for part in held_out}
    told = {f"oof/{name}_{metric}": score(labels, found.argmax(axis=1)) for name, found in zip(names, unseen, strict=True)}
    told |= {f"oof/{BLEND}_{metric}": score(labels, blend.probabilities(unseen).argmax(axis=1))}
    told |= {f"{BLEND}/weight_{name}": float(weight) for name, weight in zip(names, blend.weights, strict=True)}
    predictor = BlendPredictor(towers.predictor(), reference.predictor(config, m, ngrams, net), blend, publish.about_of(m, None))
    predictor.lineage = m.lineage
    title = "blend of " + ", ".join(f"{name} {weight:.2f}" for name, weight in zip(names, blend.weights, strict=True))
    found = {part: blend.probabilities(members[part]) for part in held_out}
    return publish.Fitted(predictor, found, f"{title}: {len(labels)} training posts", told)


def out_of_fold(
    inner: OptimizeClipConfig, m: Materials, seen: np.ndarray | None, fold_of: np.ndarray, folder: Path, train: Train
) -> tuple[list[str], np.ndarray]:
    """Return the members' names and their probabilities (M, N, C) of the training posts, each by members trained without its fold."""
    posts, texts, n_classes = m.rows["train"], m.texts["train"], len(m.class_names)
    names = [TOWERS, "ngrams", *(["image"] if seen is not None else [])]
    found = np.full((len(names), len(posts), n_classes), np.nan)
    for fold in range(int(fold_of.max()) + 1):
        inside, outside = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        rows = {"train": posts.subset(inside), "val": m.rows["val"], "test": posts.subset(outside)}
        found[0, outside] = train(inner, rows, folder / f"fold_{fold}").probabilities("test")
        features = [None if seen is None else seen[part] for part in (inside, outside)]
        ngrams = NgramClassifier.fit(reference.settings_of(inner), [texts[i] for i in inside], features[0], rows["train"].truth, n_classes)
        found[1:, outside] = np.stack(list(ngrams.by_side([texts[i] for i in outside], features[1]).values()))
    return names, found


def _folds(config: OptimizeClipConfig, m: Materials) -> np.ndarray:
    """Return (N,) the fold of each training post; a variant is in the fold of the post that it was made from."""
    posts, file = m.rows["train"], materials.csv_of(config, "train")
    columns = [] if file is None else [post_splits.read_column(file, name) for name in ("guid", "source_guid")]
    sources = dict(zip(*columns, strict=True)) if columns else {}
    groups = folds.groups_of(posts, [sources.get(guid) or guid for guid in posts.guids])
    fewest = min(len(np.unique(groups[posts.truth == label])) for label in range(len(posts.class_names)))
    try:
        return folds.fold_of(posts, groups, max(2, min(FOLDS, fewest)), config.seed)
    except UserError as error:
        said = str(error).replace("lower folds", "take another head_variant")
        raise UserError(f"head_variant = {BLEND}: {said}") from None


def train(
    config: OptimizeClipConfig,
    rows: dict[str, Posts],
    key: str,
    run: Recorder | None,
    unfinished: after.Unfinished | None,
    towers: Train,
) -> dict[str, Any]:
    """Fit, evaluate and publish, or do what was left to be done after that; return the summary ({} on ranks other than 0)."""
    m = materials.gather(config, rows)
    if run is None:  # takes its share in the trainings of the towers
        fit(config, m, stage.work_folder(key) / publish.MEMBERS, towers)
        return {}
    return publish.in_one_go(m, key, run, unfinished, lambda folder: fit(config, m, folder, towers))


def predictor_of(config: OptimizeClipConfig, rows: dict[str, Posts], folder: Path, train: Train) -> BlendPredictor:
    """Fit on given rows in a folder of one's own and return the classifier."""
    return fit(config, materials.gather(config, rows), folder, train).predictor
