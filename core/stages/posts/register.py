"""From a trained post classifier to a registered model: what was scored is what is served."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from core import digest
from core.data.posts import Posts
from core.stages import held_out as held
from core.stages.held_out import HeldOut, Row
from core.stages.posts import materials
from core.stages.posts.config import PostsData
from core.stages.posts.results import items_of
from core.tracking import registry

NAME = registry.model_name("posts", "")
# What the model takes and gives, as MLflow types.
COLUMNS = ({"image": "string", "text": "string"}, {"class": "string", "confidence": "double"})
METRIC = "macro_f1"  # on validation posts; accuracy alone would reward calling everything positive


def register(
    run: Any, predictor: Path, example: Posts, metrics: dict[str, float], about: dict[str, Any], evaluation: registry.Evaluation
) -> str:
    """Register a predictor's folder as `taxon-posts`; return the model's URI.

    Args:
        predictor: what `core.serving.posts.write` wrote.
        example: posts of which the first is the input example.
        metrics: shown beside the model. about: of which the plain values become tags.
        evaluation: what promotion has to know.
    """
    import pandas

    image = base64.b64encode(example.image_paths[0].read_bytes()).decode()
    first = pandas.DataFrame({"image": [image], "text": [example.texts[0]]})
    tags = {name: str(value) for name, value in about.items() if isinstance(value, str | int | float)}
    finite = {f"registered/{name}": value for name, value in metrics.items()}
    return registry.register(run, NAME, predictor, "core.serving.posts", COLUMNS, first, finite, tags, evaluation)


def evaluation(m: materials.Materials, probabilities: np.ndarray) -> registry.Evaluation:
    """Return how probabilities (N, C) do on the validation posts, and what promotion needs to ask about these posts again."""
    part = of_posts(m.rows["val"])
    answers = [m.class_names[best] for best in probabilities.argmax(axis=1)]
    return registry.Evaluation(
        "posts",
        METRIC,
        held.scores(part.labels, answers),
        part.digest,
        {f.name: getattr(m.config, f.name) for f in dataclasses.fields(PostsData)},
        m.config.select_by,
        tuple(sorted(m.lineage.learnt)),
    )


def held_out(options: dict[str, Any]) -> HeldOut:
    """Return the validation posts that these data options name."""
    return of_posts(materials.load_part(PostsData(**options), "val"))


def of_posts(posts: Posts) -> HeldOut:
    """Return labelled posts as held-out items."""
    keys = tuple((*item, content) for item, content in zip(items_of(posts), contents(posts), strict=True))
    return HeldOut(posts.tags, contents(posts), lambda: _rows(posts), keys)


def contents(posts: Posts) -> tuple[str, ...]:
    """Return the sha256 of each post's image file and text."""
    return tuple(digest.of_json([image.content, text]) for image, text in zip(posts.fingerprints, posts.texts, strict=True))


def _rows(posts: Posts) -> Iterator[Row]:
    for path, text in zip(posts.image_paths, posts.texts, strict=True):
        yield {"image": str(path.resolve()), "text": text}
