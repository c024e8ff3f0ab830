"""Ask a registered model as its server would: loaded by MLflow from its safetensors, with its own code, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from core.errors import UserError

WORKER = Path(__file__).with_name("ask_worker.py")
ROWS = 32  # asked at a time
# The model's own code is to be found, not the project's; and nothing is tracked.
DROPPED = ("PYTHONPATH", "MLFLOW_RUN_ID")

# The rows are this project's own, of files that it has read before: the server's guards (core.serving.images) are not for them.
OPEN = {"TAXON_SERVE_IMAGES": "/", "TAXON_SERVE_MEGAPIXELS": "100000"}


def answers(folder: Path, rows: Iterable[dict[str, str]], what: str) -> list[dict[str, Any]]:
    """Return one answer a row of the model in `folder`; raise UserError naming `what` where it cannot be loaded or asked.

    The process ends with this one: its input does.
    """
    environment = {name: value for name, value in os.environ.items() if name not in DROPPED} | OPEN
    words = [sys.executable, "-P", str(WORKER), str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            found = [answer for some in _exchange(process, rows, what) for answer in some]
        except BaseException:
            process.kill()
            raise
    return found


def _exchange(process: subprocess.Popen[str], rows: Iterable[dict[str, str]], what: str) -> Iterator[list[dict[str, Any]]]:
    """Send some rows, wait for their answers, and so on."""
    asked, answered, left = process.stdin, process.stdout, iter(rows)
    assert asked is not None and answered is not None  # both are pipes
    while some := list(islice(left, ROWS)):
        with contextlib.suppress(BrokenPipeError):  # what it said before it ended follows
            asked.write(json.dumps(some) + "\n")
            asked.flush()
        line = answered.readline()
        said = json.loads(line) if line else {"error": f"its process ended with code {process.wait()}"}
        if isinstance(said, dict):
            raise UserError(f"{what} cannot be asked: {said['error']}")
        for answer in said:
            if answer.get("error"):
                raise UserError(f"{what} cannot be asked: {answer['error']}")
        yield said
    asked.close()
