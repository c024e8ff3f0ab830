"""Checkpoints that lie beside the one a training resumes from: its best epoch is brought along, verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core import digest
from core.errors import UserError
from core.stages import inputs
from core.training import state as states


class Source:
    """Where a checkpoint to resume from came from, and what else lies there.

    Args:
        uri: what the option names: file, folder, run or URI.
        option: its name.
        history: one [epoch, {metric: value}] per finished epoch of the resumed training: what lies there has to be of that one.
    """

    def __init__(self, uri: str, option: str, history: list[list[Any]]) -> None:
        self.uri, self.option, self.history = uri, option, history
        self.path = inputs.checkpoint_at(uri, option)

    def bring(self, epoch: int, folder: Path) -> bool:
        """Copy the checkpoint of an epoch into `folder`; say whether it was there, whole, and of this very training."""
        name = states.checkpoint_name(epoch)
        path = self._beside(name)
        entry = states.read_index(path.parent).get(name) if path else None
        if path is None or (entry and not digest.is_vouched(path, entry)):
            return False
        try:
            state = states.load_checkpoint(path)
        except UserError:
            return False
        finished = [row for row in self.history if row[0] <= epoch]
        if state.epoch != epoch or json.dumps(state.history) != json.dumps(finished):
            return False
        states.adopt(folder, path, epoch)
        return True

    def _beside(self, name: str) -> Path | None:
        from core.tracking.uri import resolve

        path = self.path.with_name(name)
        if path.is_file():
            return path
        parent, _, last = self.uri.rpartition("/")
        if not self.uri.startswith("runs:/") or last != self.path.name or not self._listed(parent, name):
            return None
        return resolve(f"{parent}/{name}", self.option)  # a store elsewhere, of which one file was fetched

    def _listed(self, parent: str, name: str) -> bool:
        from core.tracking.uri import resolve

        try:
            return name in json.loads(resolve(f"{parent}/{states.INDEX}", self.option).read_text())
        except (UserError, OSError, ValueError):
            return False
