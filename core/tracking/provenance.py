"""Where a result came from: code, libraries, device and command, as digests and tags."""

from __future__ import annotations

import os
import platform
import shlex
import socket
import subprocess
import sys
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from core import cores, digest
from core.places import cache_home

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "numba", "mlflow")
_explicit: dict[str, str] = {}


def remember_parameters(values: dict[str, object]) -> None:
    """Keep the parameters that differ from their defaults, for the command that repeats the run."""
    _explicit.clear()
    _explicit.update({name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()})


def explicit_parameters() -> dict[str, str]:
    """Return what `remember_parameters` kept."""
    return dict(_explicit)


@cache
def code_digest() -> str:
    """Return the digest of every source file under core/ and entrypoints/: what a stage's result depends on."""
    files = sorted(path for folder in ("core", "entrypoints") for path in (ROOT / folder).rglob("*.py"))
    return digest.of_bytes(*(part for path in files for part in (path.relative_to(ROOT).as_posix().encode(), path.read_bytes())))


@cache
def versions() -> dict[str, str]:
    """Return the versions of the libraries that results depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def host() -> str:
    """Return an anonymous, stable name of this machine and its cache (a digest: run pages are shared, host names are not).

    The cache holds the locks by which `sweep` tells live runs from dead ones: two users of one machine do not see each other's.
    """
    return sha256(f"{socket.gethostname()} {cache_home().resolve()}".encode()).hexdigest()[:12]


def tags() -> dict[str, str]:
    """Return the tags every run carries: code state, library versions, platform."""
    return {
        "taxon.host": host(),
        "taxon.pid": str(os.getpid()),
        "taxon.code_digest": code_digest()[:16],
        "taxon.git_dirty": git_dirty(),
        "taxon.versions": " ".join(f"{name}={value}" for name, value in versions().items()),
        "taxon.platform": f"{platform.system()} {platform.machine()} {cores.usable()} usable cores python {sys.version.split()[0]}",
    }


@cache
def git_dirty() -> str:
    """Say whether the working tree differs from its commit: `true`, `false`, or `unknown` outside git."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return "unknown" if done.returncode else str(bool(done.stdout.strip())).lower()


def shown_at(experiment_id: str, run_id: str) -> str:
    """Return what to do to see a run's page: of a server its address, else that of `mlflow ui`, which has to be started first.

    A page opens as one of language models unless its address says otherwise.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    page = f"/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
    if uri.startswith(("http://", "https://")) and "@" not in uri:
        return f"{uri.rstrip('/')}{page}"
    return f"mlflow ui{store_hint()}, then http://127.0.0.1:5000{page}"


def store_hint() -> str:
    """Return the words that `mlflow ui` needs to find this process's store; none for the embedded default."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return f" --backend-store-uri {shlex.quote(uri)}" if uri and "@" not in uri else ""
