"""MLproject is what the declarations make of it, and every entry point is a thin launcher."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import re
import shlex
import subprocess
import sys
import types
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from mlflow.projects._project_spec import load_project

from core import config as configuration
from core import mlproject
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


def test_there_is_a_file_for_every_entry_point_and_an_entry_point_for_every_file():
    assert {module_of(name) for name in ENTRY_POINTS} == MODULES


def test_the_file_is_what_the_command_writes():
    assert (ROOT / "MLproject").read_text() == mlproject.text(), "run python -m core.mlproject --write"
    assert len(mlproject.text().splitlines()) <= 400


def test_the_command_compares_says_what_to_do_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mlproject, "PATH", tmp_path / "MLproject")
    assert mlproject.main([]) == 1
    said = capsys.readouterr().err
    assert said == "taxon: error: MLproject is not what the stages declare; run python -m core.mlproject --write\n"
    assert mlproject.main(["--write"]) == 0 and mlproject.main([]) == 0
    assert yaml.safe_load((tmp_path / "MLproject").read_text()) == PROJECT
    assert mlproject.main(["--wrote"]) == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_an_entry_point_declares_the_few_options_that_people_set(name):
    options = {field: (annotation, default) for field, annotation, default, _ in configuration.fields_of(config_of(name))}
    declared = ENTRY_POINTS[name]["parameters"]
    assert min(4, len(options)) <= len(declared) <= 10 and set(declared) <= set(options)
    for field, spec in declared.items():
        annotation, default = options[field]
        assert spec == {"type": "float", "default": default} if annotation in (int, float) else spec["type"] == "string"
        assert str(spec["default"]) == str(default).lower() if isinstance(default, bool) else str(spec["default"]) == str(default)
    assert "config" not in options or {spec["default"] for spec in declared.values()} == {""}, "a file's value could not be told apart"


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_the_command_passes_every_parameter_exactly_once(name):
    command = ENTRY_POINTS[name]["command"]
    assert command.startswith(f"python -m entrypoints.{module_of(name)} ")
    passed = re.findall(r"--(\w+):?=\{(\w+)\}", command)
    assert [option for option, _ in passed] == [value for _, value in passed] == list(ENTRY_POINTS[name]["parameters"])
    assert command.count("{") == len(passed)


def test_main_is_the_pipeline():
    assert ENTRY_POINTS["main"] == ENTRY_POINTS["pseudo_pipeline"]


def words_of_mlflow(name: str, given: dict[str, str]) -> list[str]:
    """Return the words that `mlflow run -e <name> -P ...` starts the entry point with."""
    command = load_project(str(ROOT)).get_entry_point(name).compute_command(given, None)
    return shlex.split(command)[3:]


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_without_parameters_an_entry_point_has_its_defaults(name):
    assert configuration.parse(config_of(name), words_of_mlflow(name, {}), module_of(name)) == config_of(name)()


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_option_is_reached_declared_or_not(name):
    other = others_of(config_of(name))
    given = {field: as_text(value) for field, value in other.items()}
    assert configuration.parse(config_of(name), words_of_mlflow(name, given), module_of(name)) == config_of(name)(**other)


def others_of(config: type) -> dict[str, Any]:
    """Return another value than the default for every option but those that name a file of options."""
    names = [field.name for field in dataclasses.fields(config) if field.name not in ("config", "multi_config")]
    return {name: other_value(config, name) for name in names}


def as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def other_value(config: type, name: str) -> Any:
    """Return another value than the default that an option takes."""
    annotation, default = next((annotation, default) for field, annotation, default, _ in configuration.fields_of(config) if field == name)
    kinds = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    values = [value for kind in kinds for value in get_args(kind)]
    for kind in kinds:
        values += {bool: [not default], int: [7, 8], float: [0.25, 0.75], str: ["a b"]}.get(kind, [])
    return next(value for value in values if value != default)


ODD = ("a b", "it's", 'a "b"', "a,b", "a=b=c", "$HOME `x` \\ ;#*", "one\ntwo", "-x", "--x", "--x=3", "{a: 1}", "null", "木ü", "")


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("name", ["prepare_longtail", "train_longtail"])
def test_odd_values_arrive_as_declared_and_as_undeclared_parameters(name, value):
    given = {"train_dir": value, "test_annotations" if name == "prepare_longtail" else "class_weights": value}
    assert given.keys() - ENTRY_POINTS[name]["parameters"].keys() and "train_dir" in ENTRY_POINTS[name]["parameters"]
    assert configuration.parse(config_of(name), words_of_mlflow(name, given), name) == config_of(name)(**given)


FILE_READERS = [stage.name for stage in catalog.stages() if issubclass(stage.config, configuration.ConfigFile)]


@pytest.mark.parametrize("name", FILE_READERS)
def test_what_mlflow_run_is_given_overrides_the_file_defaults_included(name, tmp_path):
    config, path = config_of(name), tmp_path / "all.json"
    filed = others_of(config)
    path.write_text(json.dumps(filed))
    defaults = {field.name: field.default for field in dataclasses.fields(config) if field.name in filed and field.default != ""}
    words = words_of_mlflow(name, {"config_file": str(path)} | {field: as_text(default) for field, default in defaults.items()})
    assert configuration.parse(config, words, name) == config(**filed | defaults)
    assert configuration.parse(config, words_of_mlflow(name, {"config": str(path)}), name) == config(**filed)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_entry_point_is_short_and_says_its_command(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 80
    said = ast.get_docstring(ast.parse(text)) or ""
    assert f"mlflow run . -e {path.stem}" in said
    assert importlib.import_module(f"entrypoints.{path.stem}").main.args == (catalog.find(path.stem),)


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
