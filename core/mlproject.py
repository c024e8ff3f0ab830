"""MLproject, written from the stages' declarations; nobody edits it by hand.

    python -m core.mlproject --write

Without --write the file is compared with what would be written: exit code 1 and one line where it differs.

It declares the headline of each stage with the options' own defaults. MLflow passes a declared parameter whether it was given or not and
logs it as a parameter of the run; any other one it appends as `--name value` where it is given. A stage that reads a file of options
(`config`) must know what was given, for that overrides the file: so its headline is of options that are empty by default, passed as
`--name:=value`, where nothing after the sign means that nobody gave it (core/config.py). Its other options are passed only when given.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import yaml

from core import config as configuration
from core.stages import catalog
from core.stages.stage import Stage

PATH = Path(__file__).resolve().parents[1] / "MLproject"
MAIN = "pseudo_pipeline"  # what `mlflow run .` does
HEAD = """\
# Written by `python -m core.mlproject --write`, not by hand. Every other option of an entry point is given in the same way, -P name=value;
# `python -m entrypoints.<name> --help` lists them all.
name: taxon

conda_env: conda.yaml

entry_points:
"""
WIDTH = 140


def text() -> str:
    """Return the whole file."""
    stages = sorted(catalog.stages(), key=lambda stage: stage.name != MAIN)
    return HEAD + "".join(_entry_point(stage) for stage in stages)


def main(argv: list[str]) -> int:
    """Write the file, or compare it; return the exit code."""
    if argv not in ([], ["--write"]):
        print("taxon: error: core.mlproject takes --write, or nothing to compare only", file=sys.stderr)
        return 2
    if argv:
        PATH.write_text(text(), encoding="utf-8")
    elif not PATH.is_file() or PATH.read_text(encoding="utf-8") != text():
        print("taxon: error: MLproject is not what the stages declare; run python -m core.mlproject --write", file=sys.stderr)
        return 1
    return 0


def _entry_point(stage: Stage) -> str:
    says = textwrap.shorten(stage.config.__doc__ or "", WIDTH - 4, placeholder=" ...")
    fields = {name: (annotation, default) for name, annotation, default, _ in configuration.fields_of(stage.config)}
    gives = ":=" if "config" in fields else "="
    command = [f"python -m entrypoints.{stage.name}", *(f"--{name}{gives}{{{name}}}" for name in stage.headline)]
    lines = [
        f"  # {says}",
        f"  {stage.name}:" if stage.name != MAIN else f"  main: &{MAIN}",
        "    parameters:",
        *(f"      {name}: {_parameter(*fields[name])}" for name in stage.headline),
        *textwrap.wrap(f"command: {' '.join(command)}", WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 6, break_on_hyphens=False),
    ]
    return "\n".join([*lines, *([f"  {MAIN}: *{MAIN}"] if stage.name == MAIN else []), ""])


def _parameter(annotation: Any, default: Any) -> str:
    """Return type and default of an option: plain numbers are `float`, everything else `string` (MLflow knows no other that fits)."""
    number = annotation in (int, float)
    said = default if number else str(default).lower() if isinstance(default, bool) else str(default)
    spec = {"type": "float" if number else "string", "default": said}
    return yaml.safe_dump(spec, default_flow_style=True, sort_keys=False, width=WIDTH).strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
