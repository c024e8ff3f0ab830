"""What a stage may say to tracking. Stages name this type only: no MLflow, no torch, and a plain object in tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol


class Recorder(Protocol):
    """An open run as a stage sees it; `core.tracking.run.Run` is the one of a tracking store.

    Whatever is told to a run that was deleted meanwhile raises Gone, metrics at the latest one epoch later; all but metrics waits for a
    store that is away. On ranks other than 0 a stage has no recorder (None).
    """

    @property
    def run_id(self) -> str:
        """The run's id in its store."""

    @property
    def page(self) -> str:
        """What to do to see the run's page."""

    @property
    def ended(self) -> ExitStack:
        """What is held (locks, files) until the run has ended and the store knows how."""

    def started(self) -> None:
        """Record, once, the seconds from asking for this work to its first useful step."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Queue the metrics of one step; never blocks. Values that are not finite, and steps that the run has, are left out.

        Args:
            step: a global epoch; of `step/...` metrics the optimizer's steps so far.
        """

    def forward(self, values: dict[str, float], epoch: int, /) -> None:
        """Tell whoever asked for the stage (a pipeline's curves, a study's pruner) an epoch's metrics; it may end the stage by raising."""

    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters; those that the run has stay as they are."""

    def options(self, values: Mapping[str, object]) -> None:
        """Log what options came to, each once, whatever was given for them."""

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags, all at once; values are cut to what every store accepts."""

    def untag(self, name: str) -> None:
        """Remove a tag, where the run has it."""

    def note(self, markdown: str) -> None:
        """Set the description shown at the top of the run's page."""

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Record a data set as an input: its name, the digest of its content, where it came from, what it is for (train, val, ...)."""

    def file(self, path: Path, folder: str = "") -> None:
        """Store one finished file as artifact `folder/<its name>`; OSError where it is not there."""

    def folder(self, path: Path, folder: str = "") -> None:
        """Store the files of a finished folder as artifacts below `folder`."""

    def json(self, value: object, name: str, folder: str = "") -> None:
        """Store a value as the indented JSON artifact `folder/name`; TypeError for one that JSON does not know."""

    def write(self, name: str, writer: Callable[[Path], object], folder: str = "") -> None:
        """Let `writer` make a file at a scratch path, then store it as artifact `folder/name`."""
