"""A place whose store is an MLflow server, which is killed and started again while commands run, and all that the store then tells."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.entrypoints.place import GUARD, ROOT, Place

# What tells of one run, not of the work: its number, its process and the machine.
OF_ONE_RUN = ("taxon.made", "taxon.pid", "taxon.host")
UPLOADING = ".artifact.uploading."  # a killed server leaves such files, which MLflow neither lists nor gives to anybody
# Files with times and places in them; the manifest vouches for their contents.
VARYING = re.compile(r"(checkpoints/.*|(manifest|summary|config)\.json)$")


@dataclass(frozen=True)
class Kill:
    """The server is killed when `moment` returns True (False = the command has ended before), and is back `away` seconds later."""

    moment: Callable[[threading.Event], bool]
    away: float


def after(seconds: float, away: float) -> Kill:
    """Return a kill some seconds after the server answered, or answered again."""
    return Kill(lambda over: not over.wait(seconds), away)


class Zygote:
    """The process that servers are forked from."""

    def __init__(self) -> None:
        words = [sys.executable, "-m", "tests.entrypoints.server_zygote"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env=environment)

    def fork(self, environment: dict[str, str], port: int, log: Path) -> int:
        """Start a server; return the number of its process group."""
        self.process.stdin.write(json.dumps({"environment": environment, "port": port, "log": str(log)}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        """End it; its servers are ended before."""
        self.process.stdin.close()
        self.process.wait(30)


@dataclass(frozen=True)
class ServedPlace(Place):
    """A place whose commands know nothing but the server's address: metrics, tags, models and files all go through it.

    Attributes:
        port: of the server, the same after every start.
        zygote: what it is forked from.
        groups: process groups of the servers that run: one, or none while it is away.
    """

    port: int = 0
    zygote: Zygote | None = None
    groups: list[int] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """The environment of commands: the server's address in place of the database."""
        return super().env | {"MLFLOW_TRACKING_URI": self.address}

    @property
    def address(self) -> str:
        """Return where the server answers."""
        return f"http://127.0.0.1:{self.port}"

    def serve(self) -> None:
        """Start the server and wait until it answers."""
        environment = {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{self.folder}/mlflow.db",
            "_MLFLOW_SERVER_REGISTRY_STORE": f"sqlite:///{self.folder}/mlflow.db",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self.folder / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        }
        self.groups.append(self.zygote.fork(environment, self.port, self.folder / "server.log"))
        end = time.monotonic() + GUARD / 10
        while not self.answers():
            assert time.monotonic() < end, (self.folder / "server.log").read_text()[-2000:]
            time.sleep(0.05)

    def answers(self) -> bool:
        """Say whether the server answers."""
        try:
            urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Kill the server and all that belongs to it, in the middle of whatever it does."""
        while self.groups:
            group = self.groups.pop()
            with contextlib.suppress(ProcessLookupError):
                while True:  # until nothing is left of it
                    os.killpg(group, signal.SIGKILL)
                    time.sleep(0.01)

    @contextlib.contextmanager
    def killed(self, kills: Sequence[Kill]) -> Iterator[list[float]]:
        """Kill the server while what is inside runs; it answers at the end. Yields the moments of the kills so far, in seconds.

        Moments count from when the first run is made: a server that is away when a command starts is refused at once.
        """
        over, moments = threading.Event(), []

        def go() -> None:
            while kills and not self.rows("select 1 from runs limit 1"):
                if over.wait(0.02):
                    return
            began = time.monotonic()
            for one in kills:
                if not one.moment(over):
                    return
                self.kill()
                moments.append(time.monotonic() - began)
                over.wait(one.away)
                self.serve()

        thread = threading.Thread(target=go, daemon=True)
        thread.start()
        try:
            yield moments
        finally:
            over.set()
            thread.join()

    def told(self) -> dict[str, Any]:
        """Return all that the store tells of the work, without what differs from one time to the next: its runs, and its models."""
        return {"runs": sorted(map(self._told_of_run, self.runs()), key=str), "models": self._told_of_models()}

    def _told_of_run(self, run: Any) -> dict[str, Any]:
        about = {"name": run.info.run_name, "status": run.info.status, "params": self._plain(run.data.params)}
        inputs = sorted((one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs)
        files = self._files(self.folder / "artifacts" / run.info.artifact_uri.removeprefix("mlflow-artifacts:/"))
        return about | {"tags": self._plain(run.data.tags), "history": self.history(run.info.run_id), "inputs": inputs, "files": files}

    def _told_of_models(self) -> list[Any]:
        client = self.client
        experiments = {one.experiment_id: one.name for one in client.search_experiments()}
        found: list[Any] = []
        for model in client.search_logged_models(list(experiments)):
            metrics = sorted((metric.key, metric.value) for metric in model.metrics or ())
            found.append(("logged", experiments[model.experiment_id], model.name, str(model.status), self._plain(model.tags), metrics))
        for model in client.search_registered_models():
            found.append(("registered", model.name, dict(model.aliases)))
        for one in client.search_model_versions():
            found.append(("version", one.name, int(one.version), one.status, one.description, self._plain(one.tags)))
        return sorted(found, key=str)

    def _plain(self, values: dict[str, str]) -> dict[str, str]:
        """Return texts without numbers of runs, this place and what tells of one run."""
        kept = {name: value for name, value in values.items() if name not in OF_ONE_RUN}
        return {name: re.sub(r"[0-9a-f]{32}", "<id>", str(value).replace(str(self.folder), "<place>")) for name, value in kept.items()}

    def _files(self, folder: Path) -> dict[str, str]:
        """Return what is known of every artifact: its digest, or whether it is what the manifest says."""
        digests = {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(UPLOADING)
        }
        manifest = json.loads((folder / "manifest.json").read_text())["files"] if "manifest.json" in digests else {}
        vouched = {name: "whole" if manifest[name]["sha256"] == digests.get(name) else "not what the manifest says" for name in manifest}
        return {name: vouched.get(name, "there") if VARYING.match(name) else digest for name, digest in digests.items()} | {
            name: "missing" for name in manifest if name not in digests
        }


def differing(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return in what two stores tell differently, in words."""
    names = ("runs", "models")
    said = [f"{len(found[name])} {name} for {len(expected[name])}" for name in names if len(found[name]) != len(expected[name])]
    for one, wanted in zip(found["runs"], expected["runs"], strict=False):
        said += [f"{wanted['name']}: {key} {_parts(one[key], wanted[key])}" for key in wanted if one[key] != wanted[key]]
    said += [f"models: {one} for {wanted}" for one, wanted in zip(found["models"], expected["models"], strict=False) if one != wanted]
    return said


def _parts(found: Any, wanted: Any) -> str:
    if not isinstance(wanted, dict):
        return f"{found} for {wanted}"[:400]
    return ", ".join(sorted(key for key in found | wanted if found.get(key) != wanted.get(key)))


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
