"""Stages of posts that store their files as they go, run for a pipeline: with a manifest at the end, so that they can be reused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.stages.posts import compare_variants, predict
from core.stages.posts import prepare as prepare_posts
from core.tracking import stage
from core.tracking.store import scratch


class Collected:
    """A run whose files are kept in a folder until all are there; everything else goes through."""

    def __init__(self, run: Any, place: Path):
        self._run, self._place = run, place

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def file(self, path: Path, folder: str = "") -> None:
        """Keep one finished file."""
        (self._place / folder).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self._place / folder / path.name)

    def folder(self, path: Path, folder: str = "") -> None:
        """Keep a finished folder's files."""
        shutil.copytree(path, self._place / folder, dirs_exist_ok=True)

    def write(self, name: str, writer: Callable[[Path], Any], folder: str = "") -> None:
        """Let `writer` make a file."""
        (self._place / folder).mkdir(parents=True, exist_ok=True)
        writer(self._place / folder / name)

    def json(self, value: Any, name: str, folder: str = "") -> None:
        """Keep a value as an indented JSON file."""
        self.write(name, lambda path: path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n"), folder)


def prepare(config: Any, run: Any) -> dict[str, Any]:
    """Run `prepare_posts`."""
    return vouched(prepare_posts.run, config, run)


def heads(config: Any, run: Any) -> dict[str, Any]:
    """Run `head_variant_compare`."""
    return vouched(compare_variants.heads, config, run)


def preprocessing(config: Any, run: Any) -> dict[str, Any]:
    """Run `preprocess_compare`."""
    return vouched(compare_variants.preprocessing, config, run)


def predictions(config: Any, run: Any) -> dict[str, Any]:
    """Run `predict_test_clip`."""
    return vouched(predict.run, config, run)


def vouched(function: Callable[[Any, Any], dict[str, Any]], config: Any, run: Any) -> dict[str, Any]:
    """Call a stage and publish its files with its summary and a manifest."""
    place = scratch("step")
    try:
        summary = function(config, Collected(run, place))
        stage.publish(run, place, summary)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return summary
