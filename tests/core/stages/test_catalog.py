"""The catalog knows every stage once, and each has its launcher."""

import importlib

import pytest

from core.stages import catalog
from core.stages.stage import function_of
from tests.entrypoints.place import ROOT

STAGES = {stage.name: stage for stage in catalog.stages()}


def test_names_are_unique_and_each_has_a_launcher():
    assert len(STAGES) == len(list(catalog.stages()))
    assert set(STAGES) == {path.stem for path in (ROOT / "entrypoints").glob("[a-z]*.py")}


@pytest.mark.parametrize("name", STAGES)
def test_what_a_stage_names_is_there(name):
    stage = STAGES[name]
    assert callable(function_of(stage.work)) and (not stage.check or callable(function_of(stage.check)))


def test_every_family_says_what_its_models_are_compared_on():
    assert all(callable(importlib.import_module(f"core.stages.{family}.register").held_out) for family in catalog.FAMILIES)
    assert catalog.find("train_longtail").name == "train_longtail"
