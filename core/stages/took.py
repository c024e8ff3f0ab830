"""How long the same command took on this machine the last time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from core import config as configuration
from core.places import cache_home


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
    from core import digest  # brings numpy, which `--help` need not wait for

    return cache_home() / "took" / digest.of_json([entry_point, configuration.told(config)])[:24]
