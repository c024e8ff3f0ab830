"""No orphan trains on: processes end with those that started them, but not with the user's shell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from core.tracking import lifeline
from core.tracking.provenance import ROOT

PARENT = """
import multiprocessing, os, time
from core.tracking import lifeline

def stage():
    lifeline.follow_parent_process()
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    process = multiprocessing.get_context("forkserver").Process(target=stage)
    process.start()
    process.join()
"""
FOLLOWER = """
import os, time
from core.tracking import lifeline
lifeline.follow_launcher()
print(os.getpid(), flush=True)
time.sleep(60)
"""
# Stands in for `mlflow run`: a shell with two commands (which stays) or with one (which becomes python itself).
LAUNCHER = "import subprocess, sys; subprocess.Popen(['bash', '-c', sys.argv[1]]).wait()"


def start(words: list[str], **env: str) -> subprocess.Popen:
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)} | env)


def ends(pid: int) -> bool:
    """Wait, at most half a minute, for a process to end."""
    try:
        psutil.Process(pid).wait(timeout=30)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


@pytest.mark.slow
def test_a_stage_process_ends_when_its_pipeline_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    parent = start([sys.executable, str(tmp_path / "parent.py")])
    stage = int(parent.stdout.readline())
    assert psutil.pid_exists(stage)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert ends(stage)


@pytest.mark.slow
@pytest.mark.parametrize("before", ["true && ", ""])
def test_a_training_ends_when_mlflow_run_is_killed(tmp_path, before):
    (tmp_path / "follower.py").write_text(FOLLOWER)
    command = f"{before}{sys.executable} {tmp_path / 'follower.py'}"
    launcher = start([sys.executable, "-c", LAUNCHER, command], MLFLOW_RUN_ID="x")
    training = int(launcher.stdout.readline())
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    assert ends(training)


class Ancestor:
    """A process as psutil shows it."""

    def __init__(self, pid: int, cmdline: list[str], parent: Ancestor | None = None):
        self.pid, self._cmdline, self._parent = pid, cmdline, parent

    def parent(self):
        return self._parent

    def cmdline(self):
        return self._cmdline


INIT = Ancestor(1, ["init"])
SHELL = Ancestor(10, ["-bash"], INIT)
MLFLOW = Ancestor(20, ["python", "mlflow", "run", "."], SHELL)


@pytest.mark.parametrize(
    ("parent", "chain"),
    [
        (Ancestor(30, ["bash", "-c", "activate && python"], MLFLOW), [(40, 30), (30, 20)]),
        (MLFLOW, [(40, 20)]),
        (INIT, []),
    ],
)
def test_the_launcher_is_watched_and_not_the_shell_it_was_started_from(monkeypatch, parent, chain):
    """`nohup mlflow run . &` and closing the terminal must not end the training."""
    monkeypatch.setattr(lifeline.psutil, "Process", lambda: Ancestor(40, ["python"], parent))
    assert lifeline._chain() == chain


def test_a_command_started_by_hand_is_not_watched(monkeypatch):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setattr(lifeline, "_chain", lambda: pytest.fail("looked for a launcher"))
    lifeline.follow_launcher()


def test_sigterm_ends_a_run_like_ctrl_c():
    before = signal.getsignal(signal.SIGTERM)
    try:
        lifeline.interrupt_on_sigterm()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
    finally:
        signal.signal(signal.SIGTERM, before)


DROPPED = """
import os, signal, sys, time, weakref
from core.tracking import lifeline

class Thing:
    pass

if sys.argv[1] == "SIGINT":  # which whoever runs the tests may have been started with ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
lifeline.interrupt_on_sigterm()
thing = Thing()
kept = weakref.ref(thing, lambda _: (os.kill(os.getpid(), getattr(signal, sys.argv[1])), sum(range(1000))))
try:
    del thing  # Python drops what its callback raises
    time.sleep(20)
    print("went on")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(("name", "shell"), [("SIGINT", ""), ("SIGTERM", ""), ("SIGTERM", "trap '' INT; ")])
def test_an_interrupt_that_python_drops_is_raised_again(name, shell):
    """Also where it was started with Ctrl-C ignored, as a script's background jobs are."""
    words = ["bash", "-c", f'{shell}exec "$@"', "bash", sys.executable, "-c", DROPPED, name]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_tidying_up_is_not_interrupted_by_a_second_signal():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with lifeline.undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


UNCLOSABLE = """
from sqlalchemy import create_engine
from core.tracking import lifeline

class Connection:
    def __getattr__(self, name):
        raise KeyboardInterrupt if name == "rollback" else RuntimeError("cannot be closed")

lifeline.interrupt_on_sigterm()
engine = create_engine("sqlite:///x.db", creator=Connection, _initialize=False)
try:
    engine.raw_connection().close()
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interruption_within_a_statement_prints_no_traceback(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", UNCLOSABLE], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
