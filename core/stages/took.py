"""What a command is about to do, and how long the same one took on this machine the last time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from core import config as configuration
from core.places import cache_home
from core.progress import spelt


def announcement(name: str, entry_point: str, config: configuration.Dataclass) -> str:
    """Return the first line of a command: its run's name, and how long it took here the last time, where it has been here before."""
    seconds = last(entry_point, config)
    return name if seconds is None else f"{name}; took {spelt(seconds)} here last time"


def last(entry_point: str, config: configuration.Dataclass) -> float | None:
    """Return the seconds that the same command took when it last ended well on this machine; None where it never did."""
    with contextlib.suppress(OSError, ValueError):
        return float(_file(entry_point, config).read_text())
    return None


def remember(entry_point: str, config: configuration.Dataclass, seconds: float) -> None:
    """Keep how long a command took; a cache that cannot be written is no error."""
    path = _file(entry_point, config)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = path.with_suffix(f".{os.getpid()}")
        mine.write_text(f"{seconds:.1f}\n")
        mine.replace(path)


def _file(entry_point: str, config: configuration.Dataclass) -> Path:
    words = json.dumps([entry_point, sorted(configuration.told(config).items())], default=str)
    return cache_home() / "took" / hashlib.sha256(words.encode("utf-8", "backslashreplace")).hexdigest()[:24]
