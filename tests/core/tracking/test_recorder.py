"""What a stage may say to tracking: the same words to a store's run and to the tests' one, and neither MLflow nor torch to name them."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys

import pytest

from core.tracking.provenance import ROOT
from core.tracking.recorder import Recorder
from core.tracking.run import Run
from tests.memory_run import MemoryRun

WORDS = sorted(name for name in vars(Recorder) if not name.startswith("_"))
SAID = [name for name in WORDS if inspect.isfunction(vars(Recorder)[name]) and name != "forward"]  # a run keeps `forward` as a value


@pytest.mark.parametrize("kind", [Run, MemoryRun])
@pytest.mark.parametrize("name", SAID)
def test_a_run_takes_what_a_recorder_takes(kind, name):
    def shape(one):
        return [(p.name, p.default) for p in inspect.signature(getattr(one, name)).parameters.values()]

    assert shape(kind) == shape(Recorder)


def test_the_tests_run_has_every_word(tmp_path):
    assert [name for name in WORDS if not hasattr(MemoryRun(tmp_path), name)] == []


def test_naming_a_recorder_imports_nothing_heavy():
    ask = "import core.tracking.recorder, json, sys; print(json.dumps(sorted({'mlflow', 'torch', 'numpy', 'psutil'} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_whoever_takes_a_run_names_its_type():
    found = []
    for path in (file for room in ("core", "entrypoints", "tuning") for file in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.arg) and node.arg == "run" and node.annotation is not None and ast.unparse(node.annotation) == "Any":
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []
