"""Kill the quick run at ten random moments and compare what the same command makes of it with an undisturbed run.

    python -m tests.benchmarks.kill_ten [--trials 10] [--seed 1] [--folder /tmp/kill_ten] [-- --total_epochs=12 ...]

Words after `--` go to the pipeline; without them it is the full quick run on the digits. Prints one line a trial and `N of 10`;
exit code 0 only when all agree. Takes about twice the quick run's time a trial.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.entrypoints.place import Place, broken_files, copy_of_the_code, kill_group

ENDED = "it had ended before"


def main() -> int:
    """Run the trials; return the exit code."""
    arguments = _arguments()
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="kill_ten-"))
    project = copy_of_the_code(folder / "project")
    whole = _place(folder / "undisturbed", project)
    began = time.monotonic()
    expected = _finish(whole, arguments.words)
    seconds = time.monotonic() - began
    print(f"undisturbed: {seconds:.0f} s, weights {expected[0][:12]}, {len(expected[1])} values", flush=True)
    moments = random.Random(arguments.seed)
    good = 0
    for trial in range(1, arguments.trials + 1):
        differing, tries = [ENDED], 0
        while differing == [ENDED]:  # later runs find compiled code and are faster: an earlier moment, then
            tries += 1
            place = _place(folder / f"trial_{trial}_{tries}", project)  # a place of its own: stores stay open in this process
            moment = moments.uniform(0.05, 0.95) * seconds
            differing = _trial(place, moment, arguments.words, expected)
            if differing == [ENDED]:
                seconds = min(seconds, moment)
                shutil.rmtree(place.folder)
        good += not differing
        print(f"trial {trial:2d}: killed after {moment:6.1f} s: {', '.join(differing) or 'same'}", flush=True)
        if not differing:
            shutil.rmtree(place.folder)
    print(f"{good} of {arguments.trials}", flush=True)
    return 0 if good == arguments.trials else 1


def _trial(place: Place, moment: float, words: list[str], expected: tuple) -> list[str]:
    """Kill one run, run the command again; return what differs from the undisturbed run."""
    process = place.start(place.command("pseudo_pipeline", *words))
    try:
        process.wait(moment)
        return [ENDED]
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        kill_group(process)
    differing = [f"{len(left)} processes live on"] if (left := place.survivors()) else []
    digest, history = _finish(place, words)
    differing += ["weights"] if digest != expected[0] else []
    differing += ["metrics"] if history != expected[1] else []
    differing += ["broken files"] if broken_files(place.folder / "artifacts") else []
    running = [run.info.run_name for run in place.runs() if run.info.status == "RUNNING"]
    return differing + [f"still RUNNING: {name}" for name in running]


def _finish(place: Place, words: list[str]) -> tuple[str, list]:
    """Run the pipeline to its end; return its weights' digest and its history."""
    done = subprocess.run(place.command("pseudo_pipeline", *words), cwd=place.project, env=place.env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the pipeline ended with code {done.returncode}:\n{done.stderr}")
    run = place.parents()[0]
    return run.data.tags["taxon.weights_digest"], place.history(run.info.run_id)


def _place(folder: Path, project: Path) -> Place:
    """Return an empty place whose artifacts stay inside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    place = Place(folder, project)
    prepare = [sys.executable, "-c", "from core.tracking import store; store.prepare()"]
    subprocess.run(prepare, cwd=project, env=place.env, check=True, capture_output=True)
    place.client.create_experiment("taxon", artifact_location=f"file://{folder}/artifacts")
    return place


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", default="", help="where stores and artifacts go; a new temporary folder by default")
    parser.add_argument("words", nargs="*", help="options of the pipeline, after --")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
