"""The model registry: a folder of safetensors and configuration becomes a registered pyfunc model; nothing is pickled."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from core.tracking import provenance
from core.tracking.run import Run
from core.tracking.store import machine_lock, scratch

Columns = tuple[dict[str, str], dict[str, str]]
REQUIREMENTS = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "safetensors",
    "pillow",
    "pandas",
    "scipy",
    "scikit-learn",
    "numba",
    "mlflow",
    "tqdm",
)


def register(
    run: Run, name: str, data: Path, loader_module: str, columns: Columns, example: Any, metrics: dict[str, float], tags: dict[str, str]
) -> str:
    """Log `data` as a pyfunc model of `run`, register it as `name`, point the alias `challenger` to it; return its URI.

    Args:
        run: the run that made the model.
        name: registered name.
        data: folder that `loader_module._load_pyfunc(path)` understands.
        loader_module: importable from the project's own code, which is stored with the model.
        columns: (inputs, outputs) as MLflow types by column name: the signature.
        example: input example, a table.
        metrics: finite numbers shown beside the model.
        tags: facts shown beside the model (recipe, digests).
    """
    import mlflow
    from mlflow.entities import Metric

    place = scratch("model")
    try:
        folder = _save(place / "model", data, loader_module, columns, example)
        with _quiet():
            model = mlflow.initialize_logged_model(name=name, source_run_id=run.run_id, tags=tags, model_type="taxon")
            run.client.log_model_artifacts(model.model_id, str(folder))
            mlflow.finalize_logged_model(model.model_id, "READY")
            stamped = [Metric(key, value, 0, 0, model_id=model.model_id, run_id=run.run_id) for key, value in metrics.items()]
            run.client.log_batch(run.run_id, metrics=stamped)
            with machine_lock(f"register {name}"):
                version = mlflow.register_model(f"models:/{model.model_id}", name, tags=tags)
                run.client.set_registered_model_alias(name, "challenger", version.version)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return f"models:/{name}/{version.version}"


def _save(folder: Path, data: Path, loader_module: str, columns: Columns, example: Any) -> Path:
    from importlib.metadata import version

    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    signature = ModelSignature(*(Schema([ColSpec(kind, name) for name, kind in part.items()]) for part in columns))
    with _quiet():
        mlflow.pyfunc.save_model(
            path=str(folder),
            loader_module=loader_module,
            data_path=str(data),
            code_paths=[str(provenance.ROOT / "core")],
            signature=signature,
            input_example=example,
            pip_requirements=[f"{package}=={version(package).split('+')[0]}" for package in REQUIREMENTS],
        )
    for cache in list(folder.rglob("__pycache__")):
        shutil.rmtree(cache)
    return folder


@contextlib.contextmanager
def _quiet():
    """Keep MLflow's progress bars and notices off the terminal; its errors still come as exceptions."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
