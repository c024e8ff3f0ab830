"""Progress for whatever takes more than a few seconds: bars on a terminal, a line an epoch where there is none."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
ACCURACIES = ("unlabelled/v2_all", "val/accuracy", "val/accuracy_old", "train/accuracy")  # of an epoch, the first of them is shown
_quiet = ContextVar("quiet", default=False)


def bar(items: Iterable[T], description: str, total: int | None = None, leave: bool = False) -> tqdm:
    """Wrap `items` in a progress bar on stderr; disabled when stderr is not a terminal."""
    return tqdm(items, desc=description, total=total, leave=leave, dynamic_ncols=True, disable=not sys.stderr.isatty())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave the lines of epochs out inside: a study says a line a trial."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


def tell_epoch(epoch: int, stop: int, metrics: Mapping[str, float]) -> None:
    """Print a line of a finished epoch, where no bar is watched on a terminal."""
    if "L_total" in metrics and not _quiet.get() and not sys.stderr.isatty():
        print(f"taxon: {epoch_line(epoch, stop, metrics)}", flush=True)


def epoch_line(epoch: int, stop: int, metrics: Mapping[str, float]) -> str:
    """Return what an epoch came to: loss, accuracy, its seconds, and how long those up to `stop` will take at this pace."""
    seconds = metrics.get("time/train_seconds", 0.0) + metrics.get("time/evaluate_seconds", 0.0)
    shown = next((f", {name} {metrics[name]:.3f}" for name in ACCURACIES if name in metrics), "")
    left = f", {spelt(seconds * (stop - epoch))} left" if epoch < stop else ""
    return f"epoch {epoch}/{stop}: loss {metrics['L_total']:.4g}{shown}, {seconds:.1f} s{left}"


def spelt(seconds: float) -> str:
    """Return a length of time as people say it: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
