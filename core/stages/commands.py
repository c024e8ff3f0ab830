"""The entry points that run programs of the project itself: its tests and its benchmarks."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

from core import cores
from core.config import option
from core.errors import UserError, nearest
from core.tracking import provenance
from core.tracking.recorder import Recorder
from core.tracking.store import scratch

MAX_WORKERS = 8  # of pytest; every test computes on one thread


@dataclass(frozen=True)
class TestConfig:
    """Run the project's tests; the run keeps the report and the counts."""

    __test__ = False  # no test class of its own

    select: str = option("", "arguments for pytest, e.g. -m 'not slow' or tests/core/losses; empty = everything")


@dataclass(frozen=True)
class BenchmarkConfig:
    """Run the benchmarks; each measures both sides in one run and prints their ratio."""

    only: str = option("", "name of one benchmark; empty = all")
    shared: str = option("../shared", "folder with data/ and weights/ for the benchmarks on real images")


def test(config: TestConfig, run: Recorder) -> dict[str, Any]:
    """Run pytest in a process of its own; raise UserError when a test fails."""
    folder = scratch("tests")
    report = folder / "junit.xml"
    workers = str(min(cores.usable(), MAX_WORKERS))
    # A file's tests share fixtures that take seconds: they stay in one worker.
    words = [sys.executable, "-m", "pytest", f"--junitxml={report}", "-n", workers, "--dist", "loadfile", *shlex.split(config.select)]
    code = subprocess.run(words, cwd=provenance.ROOT, env=clean_environment()).returncode
    counts = {}
    if report.is_file():
        run.file(report)
        suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
        counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
        run.metrics({f"tests/{name}": value for name, value in counts.items()}, 0)
    if code:
        raise UserError(f"pytest ended with code {code}: {counts or 'no report'}; its output above names what failed")
    return counts


def benchmark(config: BenchmarkConfig, run: Recorder) -> dict[str, Any]:
    """Run the benchmarks one after another; the run keeps what they print."""
    folder = provenance.ROOT / "tests" / "benchmarks"
    names = sorted(path.stem.removeprefix("bench_") for path in folder.glob("bench_*.py"))
    if config.only and config.only not in names:
        raise UserError(f"only = '{config.only}' is no benchmark{nearest(config.only, names)}; there are {', '.join(names)}")
    environment = clean_environment() | {"TAXON_SHARED": str(Path(config.shared).resolve())}
    failed = []
    for name in [config.only] if config.only else names:
        output = _run_and_show(name, environment)
        run.write(f"{name}.txt", methodcaller("write_text", output[1]), "benchmarks")
        failed += [name] if output[0] else []
    if failed:
        raise UserError(f"benchmarks {', '.join(failed)} failed; their output above says why")
    return {}


def _run_and_show(name: str, environment: dict[str, str]) -> tuple[int, str]:
    """Run one benchmark, passing its output on line by line; return its exit code and output."""
    words = [sys.executable, "-m", f"tests.benchmarks.bench_{name}"]
    lines = []
    with subprocess.Popen(words, cwd=provenance.ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    return process.returncode, "".join(lines)


def clean_environment() -> dict[str, str]:
    """Return the environment without this run's MLflow variables: what is started here tracks for itself or not at all.

    Images of containers often forbid Python to keep what it compiled; then each of hundreds of processes compiles torch and MLflow anew,
    which is half of its processor time.
    """
    tracking = ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
    dropped = {*tracking, "TAXON_CACHE", "PYTHONDONTWRITEBYTECODE"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"PYTHONPATH": str(Path(provenance.ROOT)), "MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_OFFLINE": "1"}
