"""The recorder of the tests: what a stage says is kept in lists and dictionaries, its files in a folder; no store, no MLflow."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class MemoryRun:
    """A run that keeps what it is told.

    Attributes:
        place: where its artifacts lie; made when the first one comes.
        history, forwarded: (values, step) in the order in which they came.
        tagged, given, noted, datasets: tags as text, parameters, the description, (name, digest, source, context).
    """

    page = "mlflow ui"

    def __init__(self, place: Path):
        self.place, self.run_id = place, place.name
        self.history: list[tuple[Mapping[str, float], int]] = []
        self.forwarded: list[tuple[Mapping[str, float], int]] = []
        self.tagged: dict[str, str] = {}
        self.given: dict[str, Any] = {}
        self.datasets: list[tuple[str, str, str, str]] = []
        self.noted = ""
        self.has_started = False
        self.ended = contextlib.ExitStack()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.history.append((values, step))

    def forward(self, values: dict[str, float], epoch: int) -> None:
        self.forwarded.append((values, epoch))

    def tags(self, values: Mapping[str, object]) -> None:
        self.tagged |= {key: str(value) for key, value in values.items()}

    def untag(self, name: str) -> None:
        self.tagged.pop(name, None)

    def note(self, markdown: str) -> None:
        self.noted = markdown

    def params(self, values: Mapping[str, object]) -> None:
        self.given |= values

    def options(self, values: Mapping[str, object]) -> None:
        self.given |= values

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        self.datasets.append((name, digest, source, context))

    def started(self) -> None:
        self.has_started = True

    def file(self, path: Path, folder: str = "") -> None:
        self.write(path.name, lambda kept: shutil.copy(path, kept), folder)

    def folder(self, path: Path, folder: str = "") -> None:
        shutil.copytree(path, self.place / folder, dirs_exist_ok=True)

    def json(self, value: object, name: str, folder: str = "") -> None:
        self.write(name, lambda path: path.write_text(json.dumps(value)), folder)

    def write(self, name: str, writer: Callable[[Path], object], folder: str = "") -> None:
        (self.place / folder).mkdir(parents=True, exist_ok=True)
        writer(self.place / folder / name)

    def files(self) -> list[str]:
        """Return the names of all stored files."""
        return sorted(path.relative_to(self.place).as_posix() for path in self.place.rglob("*") if path.is_file())
