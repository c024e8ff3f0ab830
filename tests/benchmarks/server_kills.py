"""Kill the tracking server at random moments of a command, and compare what it then tells with an undisturbed run of it.

    python -m tests.benchmarks.server_kills [--command training] [--runs 25] [--kills 2] [--seed 1] [--stage_end 90] [--away 20]

Every run is the tiny pipeline on the digits, or one tiny long-tail training, against an MLflow server (SQLite, served artifacts) that is
killed with SIGKILL and comes back after 1-20 s. Compared are the status, parameters, tags, the whole history of the metrics, data
sets and artifacts of every run, and logged models, registered versions and aliases. Prints one line a run and `N of N`; exit code 0
only when all agree. `--stage_end` adds one run whose server goes away for so many seconds while the first stage publishes its files.
All runs happen in this process and in one folder, one after the other, so that imports are paid for once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.core.stages.longtail import tiny
from tests.entrypoints.place import TINY, Place
from tests.entrypoints.served_place import Kill, ServedPlace, Zygote, after, differing, free_port

SHORTEST = 1.0  # seconds that the server is away
COMMANDS = {"pipeline": "pseudo_pipeline", "training": "train_longtail"}


def main() -> int:
    """Run the trials; return the exit code."""
    arguments = _arguments()
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="server_kills-"))
    place = ServedPlace(folder / "place", port=free_port(), zygote=Zygote())
    template = _template(folder)
    tiny.make_images(folder / "glyphs")
    os.environ.update(place.env)
    try:
        _trial(place, template, arguments.command, [])  # compiles what is compiled once
        expected, seconds, _moments, _said = _trial(place, template, arguments.command, [])
        print(f"undisturbed: {seconds:.1f} s, {len(expected['runs'])} runs", flush=True)
        good = kills = 0
        moments, runs = random.Random(arguments.seed), arguments.runs + bool(arguments.stage_end)
        for number in range(1, runs + 1):
            plan = _drawn(moments, arguments.kills, seconds, arguments.away)
            if number > arguments.runs:
                plan = [_at_the_first_stages_end(place, arguments.stage_end)]
            found, took, killed, said = _trial(place, template, arguments.command, plan)
            seconds = min(seconds, took)  # without its imports, or on a machine that has become less busy
            said = said or differing(found, expected)
            good, kills = good + (not said), kills + len(killed)
            when = ", ".join(f"{moment:.1f}" for moment in killed)
            print(f"run {number:2d}: killed after {when} s, {took:.0f} s in all: {'; '.join(said) or 'same'}", flush=True)
            if said:
                shutil.copytree(place.folder, folder / f"run_{number}", dirs_exist_ok=True)
        print(f"{good} of {runs} ({kills} kills)", flush=True)
    finally:
        place.kill()
        place.zygote.close()
    return 0 if good == runs else 1


def _trial(place: ServedPlace, template: Path, command: str, kills: list[Kill]) -> tuple[dict[str, Any], float, list[float], list[str]]:
    """Run the command once; return what the store tells, the seconds, the moments of the kills and what went wrong, if anything."""
    module, words = importlib.import_module(f"entrypoints.{COMMANDS[command]}"), [f"--{name}={value}" for name, value in TINY.items()]
    if command == "training":
        words = tiny.command_line(place.folder.parent / "glyphs", epochs=4)
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir(parents=True)
    shutil.copy(template, place.folder / "mlflow.db")
    os.environ.update(place.env)
    place.serve()
    began = time.monotonic()
    with place.killed(kills) as moments:
        code = module.main(words)
    took = time.monotonic() - began
    found = place.told()
    place.kill()
    return found, took, moments, [f"exit code {code}"] if code else []


def _drawn(moments: random.Random, number: int, seconds: float, away: float) -> list[Kill]:
    """Return kills spread over a run's duration at random."""
    drawn = sorted(moments.uniform(0.0, seconds) for _ in range(number))
    return [after(now - before, moments.uniform(SHORTEST, away)) for before, now in zip([0.0, *drawn], drawn, strict=False)]


def _at_the_first_stages_end(place: ServedPlace, away: float) -> Kill:
    """Return the kill while the first stage's files are on their way."""

    def published(over: threading.Event) -> bool:
        while not over.wait(0.005):
            if any((place.folder / "artifacts").glob("*/*/artifacts/checkpoints/*")):
                return True
        return False

    return Kill(published, away)


def _template(folder: Path) -> Path:
    """Return an empty store."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mlflow.db").unlink(missing_ok=True)
    subprocess.run([sys.executable, "-c", "from core.tracking import store; store.prepare()"], env=Place(folder).env, check=True)
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder / "mlflow.db"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", choices=sorted(COMMANDS), default="pipeline")
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--kills", type=int, default=2, help="kills a run")
    parser.add_argument("--away", type=float, default=20.0, help="seconds that the server is away at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stage_end", type=float, default=90.0, help="seconds that the server is away at a stage's end; 0 = no such run")
    parser.add_argument("--folder", default="", help="where all is kept; a new temporary folder by default")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
