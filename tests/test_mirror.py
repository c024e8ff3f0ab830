"""Every module of core/ has its mirror, tests/core/<room>/test_<module>.py, or is named here with the file that tests it."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

DECLARATIONS = "core/stages/test_options.py"  # lists of options without a function; every option is shown to act there
FIGURES = "core/stages/test_registered_figures.py"  # what is registered is measured again, family by family
STAGE = {  # parts of a stage that only its training or command makes sense of: whole stages on tiny data test them
    "core/stages/checkpointed.py": "core/stages/discovery/test_resume_run.py",
    "core/stages/classification_report.py": "core/stages/longtail/test_evaluate.py",
    "core/stages/classifier.py": "core/stages/test_registered_figures.py",
    "core/stages/clip/evaluate.py": "core/stages/clip/test_train.py",
    "core/stages/clip/materials.py": "core/stages/clip/test_train.py",
    "core/stages/clip/run.py": "core/stages/clip/test_cross_validation.py",
    "core/stages/discovery/feature_files.py": "core/stages/discovery/test_cache.py",
    "core/stages/discovery/materials.py": "core/stages/discovery/test_checks.py",
    "core/stages/discovery/pipeline.py": "core/stages/discovery/test_resume_run.py",
    "core/stages/discovery/rebuild.py": "core/stages/discovery/test_cache.py",
    "core/stages/discovery/splits.py": "core/stages/discovery/test_checks.py",
    "core/stages/held_out.py": "core/stages/test_promote.py",
    "core/stages/inputs.py": "core/stages/test_resumed_best.py",
    "core/stages/longtail/materials.py": "core/stages/longtail/test_train.py",
    "core/stages/longtail/rebuild.py": "core/stages/longtail/test_evaluate.py",
    "core/stages/posts/checks.py": "core/stages/posts/test_optimize.py",
    "core/stages/posts/evaluate.py": "core/stages/posts/test_optimize.py",
    "core/stages/posts/features.py": "core/stages/posts/test_optimize.py",
    "core/stages/posts/materials.py": "core/stages/posts/test_optimize.py",
    "core/stages/posts/model.py": "core/stages/posts/test_baseline.py",
    "core/stages/posts/pipeline_report.py": "core/stages/test_after.py",
    "core/stages/posts/publish.py": "core/stages/posts/test_optimize.py",
    "core/stages/posts/reference.py": "core/stages/posts/test_optimize.py",
    "core/stages/promote_report.py": "core/stages/test_promote.py",
    "core/stages/sources.py": "core/stages/test_resumed_best.py",
    "core/stages/stage.py": "core/stages/test_catalog.py",
}
COMMANDS = {"core/mlproject.py": "entrypoints/test_mlproject.py"}  # its test runs MLflow on what it writes
SERVED = {  # only a served model, or a process beside the run, shows what these do
    "core/serving/classifier.py": "entrypoints/test_serve.py",
    "core/serving/posts.py": "entrypoints/test_serve.py",
    "core/tracking/ask.py": "core/stages/test_promote.py",
    "core/tracking/ask_worker.py": "core/stages/test_promote.py",
    "core/tracking/served.py": "core/tracking/test_requirements.py",
    "core/tracking/versions.py": "core/stages/test_promote.py",
}
PARTS = {  # halves of one thing, split to keep files short
    "core/data/ai_challenger_classes.py": "core/data/test_ai_challenger.py",
    "core/models/clip_towers.py": "core/models/test_clip.py",
    "core/models/post_net.py": "core/training/test_posts.py",
    "core/models/transformers_names.py": "core/models/test_clip_files.py",
}


def elsewhere() -> dict[str, str]:
    """Return the test file, below tests/, of every module that has no mirror."""
    declared = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("core/stages/**/*.py") if is_declaration(path)]
    registers = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("core/stages/*/register.py")]
    return dict.fromkeys(declared, DECLARATIONS) | dict.fromkeys(registers, FIGURES) | STAGE | COMMANDS | SERVED | PARTS


def is_declaration(path: Path) -> bool:
    return path.stem in ("config", "config_tools", "stages") or (path.stem.endswith("_config") and path.stem != "multi_config")


def mirror(module: Path) -> Path:
    """Return where the test of a module belongs; a private module's has no underscore."""
    return ROOT / "tests" / module.parent.relative_to(ROOT) / f"test_{module.stem.lstrip('_')}.py"


def modules() -> list[Path]:
    return [path for path in sorted(ROOT.glob("core/**/*.py")) if path.name != "__init__.py"]


def test_every_module_is_tested_where_one_looks_for_it():
    listed = elsewhere()
    orphans = [name for path in modules() if not mirror(path).is_file() and (name := path.relative_to(ROOT).as_posix()) not in listed]
    assert not orphans, f"write {[str(mirror(ROOT / name).relative_to(ROOT)) for name in orphans]}, or name what tests them"


@pytest.mark.parametrize(("module", "where"), sorted(elsewhere().items()))
def test_the_list_holds_no_module_that_is_gone_or_has_a_mirror(module, where):
    assert (ROOT / module).is_file() and not mirror(ROOT / module).is_file() and (ROOT / "tests" / where).is_file()
