"""Processes that end with those that started them: no orphan trains on after `kill -9`."""

from __future__ import annotations

import _thread
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from typing import Any

import psutil

INTERVAL = 0.5  # seconds between looks at the ancestors


def follow_launcher() -> None:
    """End this process soon after the `mlflow run` that started it is gone.

    `mlflow run` starts `bash -c 'activate && python -m ...'`: its death reparents bash, not us, so both are watched. Where bash has
    only one command it becomes python itself, and what comes above is the user's shell: a training may well outlive that.
    """
    if "MLFLOW_RUN_ID" not in os.environ:
        return
    chain = _chain()
    threading.Thread(target=_watch, args=(chain,), name="taxon-lifeline", daemon=True).start()


def _chain() -> list[tuple[int, int]]:
    """Return (child, parent) process ids from here up to the launcher: past a `bash -c`, not past the launcher; init excluded."""
    pairs, process = [], psutil.Process()
    while (parent := process.parent()) is not None and parent.pid != 1:
        pairs.append((process.pid, parent.pid))
        if parent.cmdline()[1:2] != ["-c"]:
            break
        process = parent
    return pairs


def launcher() -> int:
    """Return the process id of the `mlflow run` that started this one; 0 where none did."""
    chain = _chain() if "MLFLOW_RUN_ID" in os.environ else []
    return chain[-1][1] if chain else 0


def launcher_folders() -> list[str]:
    """Return the working folders of the processes that started this one, the nearest first."""
    folders = []
    for _child, parent in _chain():
        with contextlib.suppress(psutil.Error, OSError):
            folders.append(psutil.Process(parent).cwd())
    return folders


def _watch(chain: list[tuple[int, int]]) -> None:
    while all(_still_parent(child, parent) for child, parent in chain):
        time.sleep(INTERVAL)
    os.kill(os.getpid(), signal.SIGTERM)  # a chance to end the run properly ...
    time.sleep(20)
    os._exit(143)  # ... but not for ever


def _still_parent(child: int, parent: int) -> bool:
    try:
        return bool(psutil.Process(child).ppid() == parent)
    except psutil.NoSuchProcess:
        return False


def follow_parent_process() -> None:
    """End this stage process at once when the pipeline that asked for it dies (fork-server children are not its own children)."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(143)

    threading.Thread(target=watch, name="taxon-lifeline", daemon=True).start()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM during the block: one signal is often followed by the other, which would cut off the tidying up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt_on_sigterm() -> None:
    """Let SIGTERM end a run as Ctrl-C does: cleanly, with its status, resumable. Neither is lost, wherever it strikes."""
    # Ctrl-C within a statement leaves a connection that cannot be closed: SQLAlchemy would print that with its traceback.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    sys.unraisablehook = _again(sys.unraisablehook)


def _again(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a hook that raises an interrupt again which fell into a finaliser or a weak reference's callback, where Python drops it."""

    def told(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            # Not from within, where it would be dropped once more; and by the signal that nobody starts a process with ignored.
            threading.Timer(0.01, _thread.interrupt_main, (signal.SIGTERM,)).start()
        else:
            hook(unraisable)

    return told
