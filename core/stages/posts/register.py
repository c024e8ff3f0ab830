"""From a trained post classifier to a registered model: what was scored is what is served."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from core.data.posts import Posts
from core.tracking import registry

NAME = "taxon-posts"
# What the model takes and gives, as MLflow types.
COLUMNS = ({"image": "string", "text": "string"}, {"class": "string", "confidence": "double"})


def register(run: Any, predictor: Path, example: Posts, metrics: dict[str, float], about: dict[str, Any]) -> str:
    """Register a predictor's folder as `taxon-posts`; return the model's URI.

    Args:
        predictor: what `core.serving.posts.write` wrote.
        example: posts of which the first is the input example.
        metrics: shown beside the model. about: of which the plain values become tags.
    """
    import pandas

    image = base64.b64encode(example.image_paths[0].read_bytes()).decode()
    first = pandas.DataFrame({"image": [image], "text": [example.texts[0]]})
    tags = {name: str(value) for name, value in about.items() if isinstance(value, str | int | float)}
    finite = {f"registered/{name}": value for name, value in metrics.items()}
    return registry.register(run, NAME, predictor, "core.serving.posts", COLUMNS, first, finite, tags)
