"""Help and a mistyped option are answered before any library of the computations is imported: in a moment."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

from tests.entrypoints.place import ROOT

MODULES = sorted(path.stem for path in (ROOT / "entrypoints").glob("*.py") if path.name != "__init__.py")
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "open_clip",
    "sklearn",
    "scipy",
    "pandas",
    "PIL",
    "matplotlib",
    "mlflow",
    "optuna",
    "transformers",
    "tokenizers",
)
ASK = """
import contextlib, importlib, io, json, sys
heavy, modules = json.loads(sys.argv[1])
found = {}
for name in modules:
    for word in ("--help", "--no_such_option=1"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                code = importlib.import_module(f"entrypoints.{name}").main([word])
            except SystemExit as end:
                code = end.code
        found[f"{name} {word}"] = [code, sorted(set(heavy) & set(sys.modules))]
print(json.dumps(found))
"""


def test_help_and_mistyped_options_import_nothing_heavy(monkeypatch):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    done = subprocess.run([sys.executable, "-c", ASK, json.dumps([HEAVY, MODULES])], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {f"{name} {word}": [code, []] for name in MODULES for word, code in (("--help", 0), ("--no_such_option=1", 2))}


def imported(path: Path) -> set[str]:
    """Return the top-level names of all that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {name.partition(".")[0] for name in [*plain, *(node.module or "" for node in nodes if isinstance(node, ast.ImportFrom))]}


def test_mlflow_is_imported_in_the_tracking_room_only():
    files = [path.relative_to(ROOT) for room in ("core", "entrypoints", "tuning") for path in (ROOT / room).rglob("*.py")]
    importing = {path for path in files if "mlflow" in imported(ROOT / path)}
    assert importing and {path for path in importing if path.parent.as_posix() != "core/tracking"} == set()
