"""A trial's training: the epochs and their validation metrics, without the evaluation, pictures and model that only the winner needs.

No trial of these families is evaluated on test images, so that nobody can choose by them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from core import config as configuration
from core import digest
from core.config import Dataclass
from core.stages.checkpointed import CheckpointedTraining
from core.tracking import stage
from core.tracking.recorder import Recorder

C = TypeVar("C")
T = TypeVar("T")


class Shared(Generic[C, T]):
    """What the trials of a study have in common, such as its images: read when the study is checked, kept until another is.

    Args:
        load: reads it for a configuration.
        options: the names of all options that `load` looks at.
    """

    def __init__(self, load: Callable[[C], T], options: tuple[str, ...]):
        self.load, self.options = load, options
        self._kept: dict[str, T] = {}

    def read(self, config: C) -> T:
        """Read it now."""
        self._kept = {self._key(config): self.load(config)}
        return next(iter(self._kept.values()))

    def of(self, config: C) -> T:
        """Return what was read for these options."""
        return self._kept[self._key(config)] if self._key(config) in self._kept else self.read(config)

    def _key(self, config: C) -> str:
        return digest.of_json([getattr(config, name) for name in self.options])


def names_of(*groups: type) -> tuple[str, ...]:
    """Return the option names of configuration classes."""
    return tuple(f.name for group in groups for f in dataclasses.fields(group))


def train(training: CheckpointedTraining) -> dict[str, Any]:
    """Train the epochs that are left and publish them; return a summary whose metrics are those of the chosen epoch."""
    training.fit()
    best = training.facts["best"]["epoch"] or training.history[-1][0]
    summary = training.summarise() | {"metrics": training.metrics_at(best)}
    training.recorder.metrics({"best_epoch": float(best)}, training.history[-1][0])
    training.recorder.tags({"taxon.seed": str(training.config.seed), "taxon.best_checkpoint": summary["best_checkpoint"]})
    publish(training.recorder, training.work, training.config, summary)
    return summary


def publish(run: Recorder, work: Path, config: Dataclass, summary: Mapping[str, Any]) -> None:
    """Store the work folder with configuration, summary and manifest."""
    (work / "config.json").write_text(json.dumps(configuration.canonical(config), indent=1, sort_keys=True) + "\n")
    stage.publish(run, work, dict(summary), keep=lambda path: not path.name.startswith("."))
    stage.clear(work)


def metric(name: str) -> Callable[[Mapping[str, float]], float]:
    """Return what reads a validation metric from a training's metrics."""
    return lambda metrics: metrics[f"val/{name}"]
