"""A registered model's requirements are the packages that its code imports when it is served: none is missing, none is needless."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml

from core.tracking import provenance, registry

PACKAGE_OF = {"PIL": "pillow", "sklearn": "scikit-learn", "open_clip": "open_clip_torch"}
BY_OTHERS = {"huggingface_hub"}  # timm and open_clip bring it in the version that they work with
BESIDE = {"torchvision", "timm"}  # timm imports torchvision: the one of this torch
PARTS = ("__init__", "images", "answers", "posts_blend")  # of those that models are registered with
MODULES = sorted(path.stem for path in (provenance.ROOT / "core" / "serving").glob("*.py") if path.stem not in PARTS)


def file_of(module: str) -> Path | None:
    path = provenance.ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def imported(module: str) -> set[str]:
    """Return the packages, by their import names, that a module of this project and all it imports import anywhere."""
    todo, seen, packages = [module, "core.tracking.served"], set(), set()
    while todo:
        file = file_of(name := todo.pop())
        if name in seen or file is None:
            continue
        seen.add(name)
        for node in ast.walk(ast.parse(file.read_text())):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                found = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            todo += [one for one in found if one.startswith("core.")]
            packages |= {one.partition(".")[0] for one in found}
    return packages - set(sys.stdlib_module_names) - {"core"}


@pytest.mark.parametrize("module", MODULES)
def test_requirements_are_what_serving_imports(module):
    needed = {PACKAGE_OF.get(name, name) for name in imported(f"core.serving.{module}") - BY_OTHERS}
    required = registry.requirements(f"core.serving.{module}")
    assert {line.partition("==")[0] for line in required} == needed | BESIDE


def test_each_is_pinned_as_the_project_pins_it():
    environment = yaml.safe_load((provenance.ROOT / "conda.yaml").read_text())
    (pinned,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    required = {line for module in MODULES for line in registry.requirements(f"core.serving.{module}")}
    assert {line.partition("==")[0] for line in required} <= {re.split(r"[=[]", line)[0] for line in pinned}
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in required)
