"""A store, a cache and an artifact folder of one test's own, and ways to start commands that use only them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("MLproject", "conda.yaml", "core", "entrypoints", "tuning")
FOREIGN = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "RANK", "WORLD_SIZE")
TINY = {
    "stage1_epochs": "2",
    "update_interval": "2",
    "total_epochs": "4",
    "k_min": "5",
    "k_max": "6",
    "density_step": "30",
    "max_workers": "1",
    "num_workers": "1",
    "gpu": "cpu",
    "compare_without": "false",
}
GUARD = 900.0  # seconds after which something hangs; no measure of speed


@dataclass(frozen=True)
class Place:
    """Where commands of one test track, cache and run.

    Attributes:
        folder: holds mlflow.db, cache/ and artifacts/.
        project: the project's folder that commands start in.
    """

    folder: Path
    project: Path = ROOT

    @property
    def env(self) -> dict[str, str]:
        """The environment of commands: this store, this cache, this interpreter, no network."""
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db",
            "MLFLOW_EXPERIMENT_NAME": "taxon",
            "TAXON_CACHE": str(self.folder / "cache"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    @property
    def client(self) -> MlflowClient:
        """A client of this store; for the time when no command is creating it."""
        return MlflowClient(self.env["MLFLOW_TRACKING_URI"])

    def command(self, entry_point: str, *words: str, **parameters: str) -> list[str]:
        """Return `python -m entrypoints.<entry_point>` with its options."""
        return [sys.executable, "-m", f"entrypoints.{entry_point}", *(f"--{k}={v}" for k, v in parameters.items()), *words]

    def mlflow_command(self, entry_point: str, **parameters: str) -> list[str]:
        """Return `mlflow run . --env-manager local -e <entry_point>` with its parameters."""
        words = [sys.executable, "-m", "mlflow", "run", ".", "--env-manager", "local", "--experiment-name", "taxon", "-e", entry_point]
        return words + [word for k, v in parameters.items() for word in ("-P", f"{k}={v}")]

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(command, cwd=self.project, env=self.env, capture_output=True, text=True, timeout=GUARD)

    def start(self, command: list[str], log: str = "log") -> subprocess.Popen:
        """Start a command as the leader of a process group of its own; its output goes to `<folder>/<log>`."""
        with open(self.folder / log, "w") as file:
            # A background job of a shell ignores Ctrl-C, and so would all that is started from it.
            return subprocess.Popen(
                command, cwd=self.project, env=self.env, stdout=file, stderr=file, start_new_session=True, preexec_fn=_heed_ctrl_c
            )

    def processes(self) -> list[psutil.Process]:
        """Return every process that works in this place: known by its cache."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TAXON_CACHE") == self.env["TAXON_CACHE"] and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def survivors(self, patience: float = 30.0) -> list[psutil.Process]:
        """Return the processes that are still there after some seconds."""
        end = time.monotonic() + patience
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.2)
        return left

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the store's database directly: cheap enough to do while commands run; nothing when it does not exist yet."""
        try:
            connection = sqlite3.connect(f"file:{self.folder}/mlflow.db?mode=ro", uri=True, timeout=60)
        except sqlite3.OperationalError:
            return []
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []
        finally:
            connection.close()

    def wait_for(self, name: str, status: str, process: subprocess.Popen) -> str:
        """Wait until a run called `name...`, or of the entry point `name`, has `status`; return its id."""
        end = time.monotonic() + GUARD
        while time.monotonic() < end and process.poll() is None:
            of = f"select run_uuid from tags where key = 'taxon.entry_point' and value = '{name}'"
            wanted = f"(name like '{name}%' or run_uuid in ({of})) and status = '{status}'"
            found = self.rows(f"select run_uuid from runs where {wanted} order by start_time desc")
            if found:
                return found[0][0]
            time.sleep(0.05)
        raise AssertionError(f"no run '{name}' became {status}; log:\n{(self.folder / 'log').read_text()}")

    def runs(self) -> list[Any]:
        """Return all runs, newest first."""
        experiments = [e.experiment_id for e in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, order_by=["attributes.start_time DESC"]))

    def parents(self) -> list[Any]:
        """Return the runs that are no stage of another, newest first."""
        return [run for run in self.runs() if MLFLOW_PARENT_RUN_ID not in run.data.tags]

    def first_parent(self) -> Any:
        """Return the oldest of them: in the shared place the undisturbed pipeline."""
        return self.parents()[-1]

    def children(self, run_id: str) -> dict[str, Any]:
        """Return the stages of a run by name."""
        return {run.info.run_name: run for run in self.runs() if run.data.tags.get(MLFLOW_PARENT_RUN_ID) == run_id}

    def history(self, run_id: str) -> list[tuple[str, int, float]]:
        """Return every (metric, step, value) of a run that tells of the work, not of the machine; a value stored twice is there twice."""
        found = self.rows(f"select key, step, value from metrics where run_uuid = '{run_id}'")
        return sorted(row for row in found if not row[0].startswith(("time/", "system/")))

    def artifacts(self, run_id: str) -> Path:
        """Return the folder of a run's artifacts."""
        return Path(self.client.get_run(run_id).info.artifact_uri.removeprefix("file://"))


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def copy_of_the_code(folder: Path) -> Path:
    """Copy what a command runs into `folder`: stage keys hold the code's digest, so the code must not change during a test."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        elif (ROOT / part).is_file():
            shutil.copy(ROOT / part, folder / part)
    return folder


def kill_group(process: subprocess.Popen) -> None:
    """End what a failing test left running."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def broken_files(folder: Path) -> list[str]:
    """Return the artifacts below `folder` that cannot be read whole, and temporary names."""
    return [str(path) for path in sorted(folder.rglob("*")) if path.is_file() and not _whole(path)]


def _whole(path: Path) -> bool:
    import numpy as np
    from PIL import Image
    from safetensors.numpy import load_file

    readers = {".safetensors": load_file, ".json": lambda p: json.loads(p.read_text()), ".png": lambda p: Image.open(p).load()}
    readers[".npz"] = lambda p: {name: array for name, array in np.load(p, allow_pickle=False).items()}
    try:
        readers.get(path.suffix, lambda p: None)(path)
    except Exception:  # whatever a reader says: it is not whole
        return False
    return not path.name.startswith(".") and path.suffix != ".tmp"
