"""Stages that are never computed twice: a key of everything a result depends on, one tag, one lookup, a verified manifest."""

from __future__ import annotations

import contextlib
import contextvars
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Run as Entity

from core import digest
from core.errors import UserError
from core.places import cache_home, made, write_atomically
from core.tracking import provenance
from core.tracking.patience import Client
from core.tracking.recorder import Recorder
from core.tracking.refusal import REASON_TAG
from core.tracking.run import MADE_TAG, NOTE_TAG
from core.tracking.uri import local_artifacts

KEY_TAG = "taxon.stage_key"
IMAGES_TAG = "taxon.images"
SPLIT_TAG = "taxon.split"  # JSON: the options that a split was drawn with, and the novel classes
UNFINISHED_TAG = "taxon.unfinished"  # what is left to be done after a published training; no such tag = nothing
MANIFEST = "manifest.json"
SUMMARY = "summary.json"
ADDED = "added.json"  # what the summary got after it was published; a file of its own, for a published file never changes
Manifest = dict[str, dict[str, Any]]
_watch: contextvars.ContextVar[Watch | None] = contextvars.ContextVar("watch", default=None)


def stage_key(entry_point: str, parameters: dict[str, Any], inputs: dict[str, str], environment: dict[str, Any]) -> str:
    """Return the key of a stage's result.

    Args:
        entry_point: the stage's name.
        parameters: canonical typed parameters that can change the result.
        inputs: digests of everything the stage reads.
        environment: kind of device and number format, as `core.stages.keys.environment` gives them.
    """
    parts = {
        "entry_point": entry_point,
        "parameters": parameters,
        "inputs": inputs,
        "code": provenance.code_digest(),
        "libraries": provenance.versions(),
        "environment": environment,
    }
    return digest.of_json(parts)


def work_folder(key: str) -> Path:
    """Return the local folder where a stage keeps its work in progress until it is finished."""
    folder = made(cache_home() / "work" / key[:24])
    if (watch := _watch.get()) is not None:
        watch.folders.append(folder)
    return folder


@dataclass
class Watch:
    """What a study wants of the stage that it runs in its own process.

    Attributes:
        keep: whether a file of the work folder is published.
        folders: the work folders that the stage asked for; whoever gives the stage up for good removes them.
    """

    keep: Callable[[Path], bool]
    folders: list[Path] = field(default_factory=list)


@contextlib.contextmanager
def watched(keep: Callable[[Path], bool]) -> Iterator[list[Path]]:
    """Let stages inside publish only what `keep` accepts, and collect their work folders."""
    watch = Watch(keep)
    token = _watch.set(watch)
    try:
        yield watch.folders
    finally:
        _watch.reset(token)


@dataclass(frozen=True)
class Finished:
    """A stage's result: its run, its artifact folder on this machine, its manifest and its small results."""

    run_id: str
    folder: Path
    manifest: Manifest
    summary: dict[str, Any]


def publish(run: Recorder, folder: Path, summary: dict[str, Any], keep: Callable[[Path], bool] = lambda path: True) -> Manifest:
    """Store a finished stage's files with their manifest (size, sha256), which goes last, so it vouches for all of them; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
    return _stored(run, folder, keep, {})


def publish_more(
    run: Recorder, folder: Path, added: dict[str, Any], published: Manifest, keep: Callable[[Path], bool] = lambda path: True
) -> Manifest:
    """Store the files that have come to a published stage, and what its summary got; return the manifest of all.

    No file that was published changes: whoever reads the stage meanwhile, or after a kill in between, finds a whole one.
    """
    if added:
        (folder / ADDED).write_text(json.dumps(added, indent=1, sort_keys=True) + "\n")
    return _stored(run, folder, keep, published)


def _stored(run: Recorder, folder: Path, keep: Callable[[Path], bool], published: Manifest) -> Manifest:
    watch = _watch.get()
    files = sorted(path for path in folder.rglob("*") if path.is_file() and keep(path) and (watch is None or watch.keep(path)))
    manifest = dict(published)
    for path in files:
        name = path.relative_to(folder).as_posix()
        if name not in manifest:
            manifest[name] = {"size": path.stat().st_size, "sha256": digest.of_file(path)}
            parent = Path(name).parent.as_posix()
            run.file(path, "" if parent == "." else parent)
    if manifest != published:
        run.json({"files": manifest}, MANIFEST)
    return manifest


def replace(finished: Finished, files: Mapping[str, bytes], client: Client | None = None) -> None:
    """Store other bytes under the names of published files, in the given order.

    The manifest goes first and vouches for either: whoever reads the stage meanwhile, or after a kill in between, finds it whole.
    """
    manifest = finished.manifest | {name: finished.manifest[name] | {"instead": digest.entry_of(data)} for name, data in files.items()}
    told = (json.dumps({"files": manifest}, indent=1, sort_keys=True) + "\n").encode()
    client = client or Client()
    local = local_artifacts(client.get_run(finished.run_id).info.artifact_uri)
    for name, data in ({MANIFEST: told} | dict(files)).items():
        write_atomically(finished.folder / name, data, f"'{name}' of run {finished.run_id}")
        if local is None:
            client.log_artifact(finished.run_id, str(finished.folder / name), Path(name).parent.as_posix().removeprefix("."))


def clear(folder: Path) -> None:
    """Remove the work folder of a published stage; one inside a study stays until the trial's value is settled as well."""
    if _watch.get() is None:
        shutil.rmtree(folder, ignore_errors=True)


def told(run_id: str, client: Client | None = None) -> dict[str, str]:
    """Return the tags that a stage gave its run, and its note: not those that say where and by which command it ran."""
    client = client or Client()
    about = {*provenance.tags(), "taxon.entry_point", "taxon.command", REASON_TAG, "taxon.continues", UNFINISHED_TAG, MADE_TAG}
    tags = client.get_run(run_id).data.tags.items()
    return {name: value for name, value in tags if (name.startswith("taxon.") and name not in about) or name == NOTE_TAG}


def find_finished(key: str, client: Client | None = None) -> Finished | None:
    """Return the newest FINISHED run of this stage key whose artifacts verify, or None."""
    return _newest(f"tags.`{KEY_TAG}` = '{key}' and attributes.status = 'FINISHED'", client or Client())


def find_unfinished(key: str, client: Client | None = None) -> tuple[Finished, tuple[str, ...]] | None:
    """Return the newest run that published this stage key's result, but ended before all that comes after it was done, and what is left.

    Such a run is FAILED or KILLED. None where there is none: one that is RUNNING may be at it on another machine.
    """
    client = client or Client()
    wanted = f"tags.`{KEY_TAG}` = '{key}' and tags.`{UNFINISHED_TAG}` != '' and attributes.status != 'RUNNING'"
    found = _newest(wanted, client)
    return (found, tuple(client.get_run(found.run_id).data.tags[UNFINISHED_TAG].split(", "))) if found else None


def _newest(wanted: str, client: Client) -> Finished | None:
    """Return the newest run that a search finds and whose artifacts verify."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for run in client.search_runs(experiments, wanted, max_results=20):
        finished = load_finished(run.info.run_id, client)
        if finished is not None:
            return finished
    return None


def load_finished(run_id: str, client: Client | None = None) -> Finished | None:
    """Return a stage run's verified result, or None when a file is missing or differs from its manifest."""
    client = client or Client()
    try:
        folder = _artifacts_here(client, run_id)
        manifest = json.loads((folder / MANIFEST).read_text())["files"]
        intact = SUMMARY in manifest and all(digest.is_vouched(folder / name, entry) for name, entry in manifest.items())
        if not intact:
            return None
        summary = [json.loads((folder / name).read_text()) for name in (SUMMARY, ADDED) if name in manifest]
        return Finished(run_id, folder, manifest, summary[0] | summary[-1])
    except Exception:  # a store that this process has no library or rights for raises its own kinds
        return None


def _artifacts_here(client: Client, run_id: str) -> Path:
    """Return a run's artifacts as a local folder, downloaded into the cache when the store is remote."""
    local = local_artifacts(client.get_run(run_id).info.artifact_uri)
    if local is not None:
        return local
    folder = made(cache_home() / "artifacts" / run_id)
    return Path(client.download_artifacts(run_id, "", str(folder)))


def best_checkpoint(images: str, drawn: dict[str, Any], client: Client | None = None) -> str:
    """Return the URI of the checkpoint with the best selection score among finished trainings on these images; '' if there is none.

    Trainings selected by oracle never win: their choice used novel-class truth.

    Args:
        images: their digest, with labels and class names: what a folder is called says nothing of what is in it.
        drawn: what SPLIT_TAG has to say of their split and novel classes; {} = anything.

    Raises:
        UserError: trainings with several sets of novel classes, of which `drawn` names none: their scores are not compared.
    """
    found = _trainings(f"tags.`{IMAGES_TAG}` = '{images}'", client)
    splits = {run.info.run_id: json.loads(run.data.tags.get(SPLIT_TAG, "{}")) for run in found}
    found = [run for run in found if all(splits[run.info.run_id].get(name) == value for name, value in drawn.items())]
    found = [run for run in found if run.data.tags.get("taxon.select_by") != "oracle"]
    found = [
        run for run in found if not {"labels", "hidden_classes"} & splits[run.info.run_id].keys()
    ]  # told more, or less, than all labels
    if not found:
        return ""
    novel = sorted({",".join(splits[run.info.run_id].get("novel", ())) for run in found})
    if len(novel) > 1:
        raise UserError(
            f"auto_find_best: there are trainings on these images with the novel classes {' and '.join(novel)}: give novel_classes"
        )
    best = max(found, key=lambda run: float(run.data.tags.get("taxon.best_score", "-inf")))
    return f"runs:/{best.info.run_id}/{best.data.tags['taxon.best_checkpoint']}"


def trained_data(client: Client | None = None) -> set[str]:
    """Return the names of the data sets that finished trainings have a best checkpoint of."""
    return {run.data.tags.get("taxon.data", "") for run in _trainings("", client)}


def _trainings(wanted: str, client: Client | None) -> list[Entity]:
    client = client or Client()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    finished = "tags.`taxon.best_checkpoint` != '' and attributes.status = 'FINISHED'"
    found: list[Entity] = []
    token = None
    while True:
        page = client.search_runs(experiments, f"{wanted} and {finished}" if wanted else finished, max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found
