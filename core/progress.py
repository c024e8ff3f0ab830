"""Progress bars for whatever takes more than a few seconds; silent when nobody watches a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def bar(items: Iterable[T], description: str, total: int | None = None, leave: bool = False) -> tqdm:
    """Wrap `items` in a progress bar on stderr; disabled when stderr is not a terminal."""
    return tqdm(items, desc=description, total=total, leave=leave, dynamic_ncols=True, disable=not sys.stderr.isatty())
