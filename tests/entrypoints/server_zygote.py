"""MLflow's server, imported once and forked in an instant: `mlflow server` itself spends many seconds of processor time on every start.

    python -m tests.entrypoints.server_zygote       # a JSON line {"environment", "port", "log"} in, the number of its process group out

What is forked is what `mlflow server --workers 1` runs: uvicorn with MLflow's application. It ends with SIGKILL, all of its group.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import mlflow.server.fastapi_app
import mlflow.server.handlers
import mlflow.store.tracking.sqlalchemy_store
import uvicorn


def main() -> None:
    """Fork a server for every line of the input."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # killed servers leave nothing behind
    for line in sys.stdin:
        asked = json.loads(line)
        process = os.fork()
        if process == 0:
            serve(asked)
            os._exit(0)
        print(process, flush=True)


def serve(asked: dict[str, Any]) -> None:
    """Be a server until killed."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(file, stream)
    os.environ.update(asked["environment"])
    uvicorn.run(mlflow.server.fastapi_app.app, host="127.0.0.1", port=asked["port"], log_level="warning")


if __name__ == "__main__":
    main()
