"""MLproject says what the configuration classes say, and every entry point is a thin launcher."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys

import pytest
import yaml

from core import config as configuration
from core.stages import catalog
from tests.entrypoints.place import ROOT

PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
ENTRY_POINTS = PROJECT["entry_points"]
FILES = sorted(path for path in (ROOT / "entrypoints").glob("*.py") if path.name != "__init__.py")
MODULES = {path.stem for path in FILES}


def module_of(entry_point: str) -> str:
    return "pseudo_pipeline" if entry_point == "main" else entry_point


def config_of(entry_point: str) -> type:
    """Return the configuration class of an entry point."""
    return catalog.find(module_of(entry_point)).config


def as_project_value(default, annotation):
    """Return a default as MLproject writes it: plain numbers as numbers, everything else as text."""
    if configuration.project_type(annotation) == "float":
        return default
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_there_is_a_file_for_every_entry_point_and_an_entry_point_for_every_file():
    assert {module_of(name) for name in ENTRY_POINTS} == MODULES


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_parameters_are_the_configurations_fields(name):
    declared = ENTRY_POINTS[name]["parameters"]
    fields = configuration.fields_of(config_of(name))
    assert list(declared) == [field for field, *_ in fields]
    for field, annotation, default, _doc in fields:
        expected = {"type": configuration.project_type(annotation), "default": as_project_value(default, annotation)}
        assert declared[field] == expected, field
        assert type(declared[field]["default"]) is type(expected["default"]) or expected["type"] == "float", field


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_the_command_passes_every_parameter_exactly_once(name):
    command = ENTRY_POINTS[name]["command"]
    assert command.startswith(f"python -m entrypoints.{module_of(name)} ")
    passed = re.findall(r"--(\w+) \{(\w+)\}", command)
    assert [option for option, _ in passed] == [value for _, value in passed] == list(ENTRY_POINTS[name]["parameters"])
    assert command.count("{") == len(passed)


def test_main_is_the_pipeline():
    assert ENTRY_POINTS["main"] == ENTRY_POINTS["pseudo_pipeline"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_entry_point_is_short_and_says_its_command(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 80
    said = ast.get_docstring(ast.parse(text)) or ""
    assert f"mlflow run . -e {path.stem}" in said
    assert importlib.import_module(f"entrypoints.{path.stem}").main.args == (catalog.find(path.stem),)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_defaults_are_what_the_parser_makes_of_them(name):
    config = config_of(name)
    words = [f"--{field}={spec['default']}" for field, spec in ENTRY_POINTS[name]["parameters"].items()]
    assert configuration.parse(config, words, module_of(name)) == config()


def test_nothing_names_a_conda_channel_package_that_uv_and_virtualenv_would_miss():
    environment = yaml.safe_load((ROOT / PROJECT["conda_env"]).read_text())
    plain = [item for item in environment["dependencies"] if isinstance(item, str)]
    assert all(item.startswith(("python", "pip")) for item in plain)
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert any(item.startswith("psutil") for item in pip)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODULES))
def test_help_lists_every_field(name):
    done = subprocess.run([sys.executable, "-m", f"entrypoints.{name}", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    for field, *_ in configuration.fields_of(config_of(name)):
        assert f"--{field} " in done.stdout, field
