"""A whole pipeline of three epochs in this process: discovery, answer, registered model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow.artifacts
import pytest
from mlflow import MlflowClient

from core.stages.discovery import pipeline
from core.stages.discovery.config import PipelineConfig
from core.tracking import run as tracking
from core.tracking.uri import local_artifacts
from tests.core.stages.test_registered_figures import InProcess
from tests.core.stages.tiny import NETWORK

OPTIONS: dict[str, Any] = NETWORK | {
    "dataset": "folder",
    "val_fraction": 0.3,
    "k_min": 3,
    "k_max": 3,
    "density_min": 40,
    "density_max": 50,
    "density_step": 10,
    "max_workers": 1,
    "compare_without": False,
    "stage1_epochs": 2,
    "update_interval": 1,
    "total_epochs": 3,
}


def store_in(folder: Path, template: Path, patch: pytest.MonkeyPatch) -> None:
    """Make a tracking store in `folder` and use it."""
    shutil.copy(template, folder / "mlflow.db")
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    patch.delenv("MLFLOW_RUN_ID", raising=False)
    MlflowClient().create_experiment("taxon", artifact_location=f"file://{folder}/artifacts")


def discover(store: Path, name: str, **options: Any) -> Path:
    """Run a pipeline; return `store`/`name`, a copy of the artifacts of its run with the registered model and the summary."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAXON_CACHE", str(store / "cache"))
        patch.setattr(pipeline, "StageServer", InProcess)
        with tracking.open_run("pseudo_pipeline", name) as run:
            summary = pipeline.run(PipelineConfig(**OPTIONS | options), run)
    folder = store / name
    shutil.copytree(local_artifacts(MlflowClient().get_run(run.run_id).info.artifact_uri), folder)
    (about,) = Path(mlflow.artifacts.download_artifacts(summary["model"])).rglob("model.json")
    shutil.copytree(about.parent, folder / "model")
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder
