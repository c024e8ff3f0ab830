"""The model registry: a folder of safetensors and configuration becomes a registered pyfunc model; nothing is pickled."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import shlex
import shutil
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mlflow.exceptions import MlflowException

from core import digest
from core.lineage import short
from core.tracking import identity as identities
from core.tracking import names, provenance, served
from core.tracking.identity import Identity
from core.tracking.patience import Client, once, patiently
from core.tracking.recorder import Recorder
from core.tracking.run import MADE_TAG, tag_texts
from core.tracking.store import machine_lock, scratch

T = TypeVar("T")
Columns = tuple[dict[str, str], dict[str, str]]
# What serving any model imports, and what the modules that read some of them import besides.
REQUIREMENTS = ("torch", "torchvision", "timm", "numpy", "safetensors", "pillow", "pandas", "mlflow", "tqdm")
BESIDES = {
    "core.serving.discovery": ("scipy",),
    "core.serving.clip": ("open_clip_torch", "transformers", "tokenizers"),
    "core.serving.posts": ("open_clip_torch", "transformers", "tokenizers", "emoji", "scikit-learn", "scipy"),
}
EVALUATION, TRAINED = "evaluation.json", "trained.json"
FILES_TAG = "taxon.files"
WARNING_TAG = "taxon.warning"  # what whoever promotes a version has to know
REFUSED_IN_NAMES = frozenset("/:.%\"'@#?\\")
LONGEST_NAME = 160  # of the data set's part; the registry holds names of 256 characters
# What MLflow writes or adapts itself while it stores or fetches a model, and so is in no digest.
NOT_SEALED = ("MLmodel", "registered_model_meta")


@dataclass(frozen=True)
class Evaluation:
    """What promotion has to know of a registered model: on what it was chosen, how it did there, what it has trained on.

    Attributes:
        family: discovery, longtail, clip or posts.
        metric: the family's declared metric, a key of `values`.
        values: metrics of the served answers on the held-out part, 0..1.
        data: digest of the held-out part (core.stages.held_out.HeldOut.digest).
        options: the data options that find the held-out part again.
        select_by: what chose the checkpoint; `oracle` is never promoted.
        trained: content digests of everything that took part in training.
        test: digest of the test part; empty = there is none.
    """

    family: str
    metric: str
    values: dict[str, float]
    data: str
    options: dict[str, Any]
    select_by: str
    trained: Sequence[str] = ()
    test: str = ""

    def write(self, folder: Path) -> None:
        """Write EVALUATION and TRAINED into the folder that a predictor is served from."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "trained"}
        (folder / EVALUATION).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
        (folder / TRAINED).write_text(json.dumps(sorted({short(content) for content in self.trained})) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Evaluation:
        """Read what `write` wrote; the training's contents are the `short` ones."""
        facts = json.loads((folder / EVALUATION).read_text())
        return cls(**facts, trained=tuple(json.loads((folder / TRAINED).read_text())))

    def tags(self) -> dict[str, str]:
        """Return the tags by which versions are found and compared without fetching them."""
        named = {"taxon.family": self.family, "taxon.metric": self.metric, "taxon.evaluated_on": self.data}
        scores = {f"taxon.held_out.{name}": repr(float(value)) for name, value in self.values.items()}
        return {**named, "taxon.select_by": self.select_by, **scores}


def model_name(family: str, data: str) -> str:
    """Return the registered name of a family's models of a data set; posts are one data set, which needs no name.

    A data set may be called whatever a file system takes: what MLflow refuses in names of registered or logged models
    (/ : . % " '), what means something in models:/<name>@<alias> (@ # ? backslash) and what nobody sees are hyphens here, and a
    name that the registry's column does not hold is cut, with a digest of all of it.
    """
    name = unicodedata.normalize("NFC", data)
    name = "".join("-" if c in REFUSED_IN_NAMES or not c.isprintable() else c for c in name).strip(" -")
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 9].rstrip(' -')}-{digest.of_bytes(data.encode(errors='surrogateescape'))[:8]}"
    if data and not name:
        name = digest.of_bytes(data.encode(errors="surrogateescape"))[:8]
    return f"taxon-{family}-{name}" if name else f"taxon-{family}"


def register(
    run: Recorder,
    name: str,
    data: Path,
    loader_module: str,
    columns: Columns,
    example: Any,
    metrics: dict[str, float],
    tags: dict[str, str],
    evaluation: Evaluation | None = None,
    identity: Identity | None = None,
) -> str:
    """Log `data` as a pyfunc model of `run`, register it, point the alias `challenger` to it; return its URI.

    A version that the run has made of these very files, before it was stopped, is taken instead of a second one.

    Args:
        run: the run that made the model.
        name: registered name (`model_name`); one with a suffix where models of another identity have it.
        data: folder that `loader_module._load_pyfunc(path)` understands; files that describe it are added.
        loader_module: importable from the project's own code, which is stored with the model.
        columns: (inputs, outputs) as MLflow types by column name: the signature.
        example: input example, a table.
        metrics: finite numbers shown beside the model.
        tags: facts shown beside the model (recipe, digests).
        evaluation: what promotion has to know; a model without it can be served, but not promoted.
        identity: which models it may replace; None = those of its name.
    """
    if evaluation is not None:
        evaluation.write(data)
        tags = {**tags, **evaluation.tags()}
    if identity is not None:
        identity.write(data)
        name = identities.claim(Client(), name, identity, tags)
    served.seal(data, loader_module)
    client, place = Client(), scratch("model")
    try:
        folder = _save(place / "model", data, columns, example, requirements(loader_module))
        tags = tag_texts({**tags, FILES_TAG: files_digest(folder)})
        made = _made_before(run, name, tags[FILES_TAG])
        model_id = "" if made else _log(run, name, folder, tags, metrics)
        with machine_lock(f"register {name}"):
            number = made or _version(run, name, model_id, tags)
            client.update_model_version(name, number, description=_described(f"models:/{name}/{number}", metrics, evaluation))
            client.set_registered_model_alias(name, "challenger", number)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return f"models:/{name}/{number}"


def _made_before(run: Recorder, name: str, files: str) -> str:
    """Return the number of the version that the run has made of files of this digest; '' where there is none."""
    found = ask(lambda: Client().raw.search_model_versions(f"run_id = '{run.run_id}'"), f"register {name}")
    return next((str(one.version) for one in found if one.name == name and one.tags.get(FILES_TAG) == files), "")


def _log(run: Recorder, name: str, folder: Path, tags: dict[str, str], metrics: dict[str, float]) -> str:
    """Store a model's files as a logged model of the run, in the run's experiment, with its metrics; return its id."""
    from mlflow.entities import LoggedModelStatus, Metric

    client, what, number = Client(), f"register {name}", uuid.uuid4().hex
    raw, experiment, marked = client.raw, client.get_run(run.run_id).info.experiment_id, {**tags, MADE_TAG: number}

    def find() -> str | None:
        made = raw.search_logged_models([experiment], f"tags.`{MADE_TAG}` = '{number}'", max_results=1)
        return made[0].model_id if made else None

    def make() -> str:
        return str(raw.create_logged_model(experiment, name, run.run_id, marked, model_type="taxon").model_id)

    model_id = once(make, find, what)
    ask(lambda: raw.log_model_artifacts(model_id, str(folder)), what)
    ask(lambda: raw.finalize_logged_model(model_id, LoggedModelStatus.READY), what)
    cleaned = {names.key(key): value for key, value in metrics.items()}
    stamped = [Metric(key, value, 0, 0, model_id=model_id, run_id=run.run_id) for key, value in cleaned.items()]
    client.log_batch(run.run_id, metrics=stamped)
    return model_id


def _version(run: Recorder, name: str, model_id: str, tags: dict[str, str]) -> str:
    """Make the version of a logged model and return its number; one that was made when an answer was lost is found."""
    raw, source = Client().raw, f"models:/{model_id}"

    def make() -> str:
        try:
            raw.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = [one for one in raw.search_model_versions(f"name = '{name}'") if one.source == source]
        version = made[0] if made else raw.create_model_version(name, source, run_id=run.run_id, tags=tags, model_id=model_id)
        return str(version.version)

    return ask(make, f"register {name}")


def ask(call: Callable[[], T], what: str) -> T:
    """Do what the store is asked for without its notices, and wait for a store that is away (which is said)."""

    def work() -> T:
        with quiet():
            return call()

    return patiently(work, what)


def _described(uri: str, metrics: dict[str, float], evaluation: Evaluation | None) -> str:
    """Return what the model's page says of a version, as Markdown."""
    held_out = "not evaluated on held-out data: it cannot be promoted"
    if evaluation is not None:
        held_out = (
            f"held-out {evaluation.metric.replace('_', ' ')} {evaluation.values[evaluation.metric]:.4f}, selected by {evaluation.select_by}"
        )
    rows = "\n".join(f"| {key} | {value:.4f} |" for key, value in sorted(metrics.items()))
    table = f"\n\n| metric | value |\n|---|---|\n{rows}" if rows else ""
    return f"{held_out}. Serve it: `mlflow models serve -m {shlex.quote(uri)} --env-manager local`{table}"


def requirements(loader_module: str) -> list[str]:
    """Return the packages, pinned as they are here, that a model needs which `loader_module` reads."""
    from importlib.metadata import version

    return [f"{package}=={version(package).split('+')[0]}" for package in (*REQUIREMENTS, *BESIDES.get(loader_module, ()))]


def files_digest(folder: Path) -> str:
    """Return the digest of a model's files, names and contents: weights, configuration, code, environment."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_SEALED and "__pycache__" not in path.parts)
    return digest.of_json({path.relative_to(folder).as_posix(): digest.of_file(path) for path in files})


def _save(folder: Path, data: Path, columns: Columns, example: Any, pinned: Sequence[str]) -> Path:
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    def schema(part: dict[str, str], *more: ColSpec) -> Schema:
        return Schema([*(ColSpec(kind, name) for name, kind in part.items()), *more])

    error = ColSpec("string", "error", required=False)  # why a row has no answer; only where one has none
    parameters = ParamSchema([ParamSpec("top_k", DataType.long, 0)])  # core.serving.answers
    signature = ModelSignature(schema(columns[0]), schema(columns[1], error), parameters)
    with quiet():
        mlflow.pyfunc.save_model(
            path=str(folder),
            loader_module=served.LOADER,
            data_path=str(data),
            code_paths=[str(provenance.ROOT / "core")],
            signature=signature,
            input_example=example,
            pip_requirements=pinned,
        )
    for cache in list(folder.rglob("__pycache__")):
        shutil.rmtree(cache)
    return folder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
