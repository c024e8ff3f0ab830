"""A PostgreSQL server of the test's own: loopback, free port, temporary folder, gone afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = "postgres"  # initdb refuses to run as root


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def binaries() -> Path:
    """Return the folder of initdb and pg_ctl, installing Debian's package as root; skip the test where that cannot be."""
    found = _installed()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update", "-qq"], ["install", "-y", "-qq", "postgresql"]):
            subprocess.run(["apt-get", *words], env=env, capture_output=True, timeout=600, check=False)
        found = _installed()
    if found is None:
        pytest.skip("PostgreSQL is not installed and cannot be: run `apt-get install postgresql` as root to run this test")
    return found


def _installed() -> Path | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name), reverse=True)
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).parent)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)


@contextmanager
def server() -> Iterator[str]:
    """Start a server; give the address of its database `taxon`."""
    folder, port = binaries(), free_port()
    place = Path(tempfile.mkdtemp(prefix="taxon-postgres-"))
    as_root = os.geteuid() == 0
    if as_root:
        shutil.chown(place, USER)

    def run(*words: str) -> None:
        with open(place.with_suffix(".log"), "a") as log:
            subprocess.run(words, cwd=place, user=USER if as_root else None, stdout=log, stderr=log, check=True, timeout=120)

    data = str(place / "data")
    control = (str(folder / "pg_ctl"), "-D", data, "-w")
    try:
        run(str(folder / "initdb"), "-D", data, "-A", "trust", "-U", "taxon", "--no-sync")
        run(*control, "-o", f"-h 127.0.0.1 -p {port} -k {place} -F", "-l", str(place / "log"), "start")
        run(str(folder / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "taxon", "taxon")
        yield f"postgresql://taxon@127.0.0.1:{port}/taxon"
    finally:
        if (place / "data" / "postmaster.pid").exists():
            run(*control, "-m", "immediate", "stop")
        shutil.rmtree(place, ignore_errors=True)
        place.with_suffix(".log").unlink(missing_ok=True)
