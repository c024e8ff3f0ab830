"""From a trained post classifier to a registered model: what was scored is what is served."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core import digest
from core.data import post_splits
from core.data.posts import Posts
from core.stages import held_out as held
from core.stages.held_out import HeldOut, Row
from core.stages.posts import materials
from core.stages.posts.config import PostsData
from core.stages.posts.results import items_of
from core.tracking import registry
from core.tracking.identity import Identity
from core.tracking.recorder import Recorder

NAME = registry.model_name("posts", "")
# What the model takes and gives, as MLflow types.
COLUMNS = ({"image": "string", "text": "string"}, {"class": "string", "confidence": "double"})
METRIC = "macro_f1"  # on validation posts; accuracy alone would reward calling everything positive


def register(
    run: Recorder,
    predictor: Path,
    rows: Mapping[str, Posts],
    metrics: dict[str, float],
    about: dict[str, Any],
    evaluation: registry.Evaluation,
) -> str:
    """Register a predictor's folder as `taxon-posts`; return the model's URI.

    Args:
        predictor: what `core.serving.posts.write` wrote.
        rows: posts by part; the first one of train is the input example.
        metrics: shown beside the model. about: of which the plain values become tags.
        evaluation: what promotion has to know.
    """
    import pandas

    example = rows["train"]
    image = base64.b64encode(example.image_paths[0].read_bytes()).decode()
    first = pandas.DataFrame({"image": [image], "text": [example.texts[0]]})
    tags = {name: str(value) for name, value in about.items() if isinstance(value, str | int | float)}
    finite = {f"registered/{name}": value for name, value in metrics.items()}
    return registry.register(run, NAME, predictor, "core.serving.posts", COLUMNS, first, finite, tags, evaluation, identity(rows))


def evaluation(m: materials.Materials, probabilities: np.ndarray) -> registry.Evaluation:
    """Return how probabilities (N, C) do on the validation posts, and what promotion needs to ask about these posts again."""
    part, test = of_posts(m.rows["val"]), m.rows.get("test")
    answers = [m.class_names[best] for best in probabilities.argmax(axis=1)]
    return registry.Evaluation(
        "posts",
        METRIC,
        held.scores(part.labels, answers),
        part.digest,
        {f.name: getattr(m.config, f.name) for f in dataclasses.fields(PostsData)},
        m.config.select_by,
        tuple(sorted(m.lineage.learnt)),
        of_posts(test).digest if test is not None else "",
    )


def identity(rows: Mapping[str, Posts]) -> Identity:
    """Return which models may replace those trained on these posts."""
    return Identity.of(rows["train"].class_names, [content for posts in rows.values() for content in contents(posts)])


def held_out(options: dict[str, Any], part: str) -> HeldOut:
    """Return the validation or test posts that these data options name."""
    return of_posts(materials.load_part(PostsData(**options), part))


def of_posts(posts: Posts) -> HeldOut:
    """Return labelled posts as held-out items; posts of one picture or text stand or fall together."""
    groups = post_splits.group(len(posts), post_splits.keys_of(posts))
    keys = tuple((*item, content) for item, content in zip(items_of(posts), contents(posts), strict=True))
    return HeldOut(posts.tags, contents(posts), lambda: _rows(posts), tuple(range(len(posts))), tuple(groups.tolist()), keys)


def contents(posts: Posts) -> tuple[str, ...]:
    """Return the sha256 of each post's image file and text."""
    return tuple(digest.of_json([image.content, text]) for image, text in zip(posts.fingerprints, posts.texts, strict=True))


def _rows(posts: Posts) -> Iterator[Row]:
    for path, text in zip(posts.image_paths, posts.texts, strict=True):
        yield {"image": str(path.resolve()), "text": text}
