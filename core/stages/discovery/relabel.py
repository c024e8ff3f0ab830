"""The relabel stage: what a person has decided about the categories becomes labels, in a table that the next pipeline reads.

clusters.json + the run's answer -> names, merges, splits, drops -> the run's images, still the same? -> images.csv
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core import config as configuration
from core.data import heap, texts
from core.data.class_names import plain
from core.data.images import NOBODY_SAID, DiscoveryData, FileImages, ImageSet
from core.errors import UserError
from core.evaluation import answer_files, decisions
from core.evaluation.decisions import Decided, Saved
from core.progress import bar
from core.stages import held_out, inputs
from core.stages.discovery import materials, new_folder, relabel_assigned
from core.stages.discovery.config import DataOptions, RelabelConfig
from core.stages.discovery.exports import safe_name
from core.stages.discovery.relabel_assigned import COLUMNS, TAKEN
from core.stages.discovery.stages import ASSIGN, PSEUDO_PIPELINE
from core.tracking import versions
from core.tracking.patience import Client
from core.tracking.recorder import Recorder
from core.tracking.run import params_of
from core.tracking.store import scratch
from core.tracking.uri import local_artifacts, resolve
from core.training import recipes

FOLDER, TABLE = "relabelled", "images.csv"
SHOWN = 3  # images that a line about a heap that has changed names of each kind
Row = dict[str, str]


@dataclass(frozen=True)
class Found:
    """The answer of a run: its id, `assignments.csv`, the sha256 of each training image by its id, and its own `clusters.json`.

    tests: the same of the images for testing; None where an older version has not stored them.
    """

    run: str
    rows: Sequence[Mapping[str, str]]
    contents: Mapping[str, str]
    clusters: Saved
    tests: Mapping[str, str] | None = None


def run(config: RelabelConfig, run: Recorder) -> dict[str, Any]:
    """Write the table of labelled images; return how many images of which class there are in it."""
    output = new_folder.asked(config.output)
    saved = _read(config.clusters)
    run_id = (config.run or saved.run).removeprefix("runs:/").rstrip("/")
    entry_point, params = _params(run_id)
    if entry_point == ASSIGN.name:
        return _of_assigned(config, saved, run_id, output, run)
    found = answer_of(run_id)
    people = {plain(row["label"]) for row in found.rows if row["label"]}
    decided = decisions.decide(saved, found.clusters, config.clusters, people)
    options = configuration.of_params(DataOptions, params, PSEUDO_PIPELINE.name)
    data = _data(run_id, options)
    require_unchanged(data, found, options.prop_train_labels in ("auto", 1.0) and not options.labels_per_class)
    _notify(decided)
    table = rows(data, found, decided, config.take)
    summary = {"run": run_id, "digest": saved.digest, "take": config.take} | counted(table)
    run.dataset(data.name, data.digest, configuration.param(params, "data_root") or "", "relabel")
    place = _store(partial(_fill, data, table), summary, output, run)
    _say(summary, place, params)
    return summary


def _params(run_id: str) -> tuple[str, dict[str, str]]:
    """Return which entry point a run is of, and its parameters; UserError unless it is one that finds or uses categories."""
    try:
        return PSEUDO_PIPELINE.name, params_of(run_id, PSEUDO_PIPELINE.name, "relabel")
    except UserError as error:
        try:
            return ASSIGN.name, params_of(run_id, ASSIGN.name, "relabel")
        except UserError:
            raise error from None


def _of_assigned(config: RelabelConfig, saved: Saved, run_id: str, output: Path | None, run: Recorder) -> dict[str, Any]:
    """Do the same for a run of `assign`, whose images may be any number."""
    assigned = relabel_assigned.Assigned.of(run_id)
    decided = relabel_assigned.decide(assigned, saved, config.clusters)
    folder = scratch(FOLDER)
    try:
        counts, lost = relabel_assigned.write(assigned, decided, config.take, folder / TABLE)
        _refuse_changed(run_id, lost, ASSIGN.name)
        _notify(decided)
        summary = {"run": run_id, "digest": saved.digest, "take": config.take} | counts
        run.dataset("assigned", saved.digest, f"runs:/{run_id}", "relabel")
        place = _store(lambda target, _below: shutil.copy(folder / TABLE, target / TABLE), summary, output, run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _say(summary, place, _network(run_id))
    return summary


def _network(run_id: str) -> dict[str, str]:
    """Return the parameters of the pipeline whose model an `assign` run has used; {} where it is no longer there."""
    try:
        version = versions.meant(Client(), params_of(run_id, ASSIGN.name, "relabel").get("model", ""))
        return params_of(version.run_id, PSEUDO_PIPELINE.name, "relabel")
    except UserError:
        return {}


def _notify(decided: Decided) -> None:
    for line in decided.notices:
        print(f"taxon: {line}", file=sys.stderr)


def _read(clusters: str) -> Saved:
    if not clusters:
        raise UserError("clusters is empty; give the clusters.json that the report.html of a pseudo_pipeline or assign run saved")
    path = inputs.file_at(clusters, "clusters", "clusters.json")
    return decisions.parse(texts.read(path, "clusters"), clusters)


def answer_of(run_id: str) -> Found:
    """Return the answer that a run has stored; UserError for a run that has none."""
    try:
        paths = [resolve(f"runs:/{run_id}/{name}", "run") for name in ("assignments.csv", "contents.csv", "clusters.json")]
    except UserError as error:
        raise UserError(f"run {run_id} has no answer ({error}); let its pseudo_pipeline end first, or name the run that has one") from None
    assigned, contents = (answer_files.rows_of(path) for path in paths[:2])
    own = decisions.parse(texts.read(paths[2], "clusters"), str(paths[2]))
    train, tests = ({row["id"]: row["sha256"] for row in contents if (row.get("part") == "test") is test} for test in (False, True))
    stored = any("part" in row for row in contents)
    return Found(run_id, assigned, train, dataclasses.replace(own, run=run_id), tests if stored else None)


def _data(run_id: str, options: DataOptions) -> DiscoveryData:
    """Read the images that a run was started with, once more."""
    try:
        return materials.read(options)
    except UserError as error:
        raise UserError(f"the images of run {run_id} cannot be read again: {error}") from None


def require_unchanged(data: DiscoveryData, found: Found, all_labels: bool = True) -> None:
    """Raise UserError, naming the first few, where images are missing, new, changed, or labelled otherwise than the run found them.

    all_labels: the run used every label that was given, so that one which it does not know is new.
    """
    kinds = _changes(found.contents, data.train)
    if found.tests is not None:
        kinds |= {f"{kind} for testing": ids for kind, ids in _changes(found.tests, data.test).items()}
    if data.given is not None:
        given = dict(zip(data.train.ids, map(plain, _given(data)), strict=True))
        said = {row["id"]: plain(row["label"]) for row in found.rows}
        known = {one: label for one, label in said.items() if one in given and (label or all_labels)}
        kinds["labelled otherwise"] = [one for one, label in known.items() if given[one] != label]
    _refuse_changed(found.run, kinds, PSEUDO_PIPELINE.name)


def _changes(before: Mapping[str, str], images: ImageSet) -> dict[str, list[str]]:
    """Return the ids of images that are missing, changed or new, by the sha256 that each had."""
    now = dict(zip(images.ids, held_out.contents(images, np.arange(len(images))), strict=True))
    return {
        "missing": [one for one in before if one not in now],
        "changed": [one for one, content in before.items() if now.get(one, content) != content],
        "new": [one for one in now if one not in before],
    }


def _refuse_changed(run_id: str, kinds: Mapping[str, Sequence[str]], entry_point: str) -> None:
    """Raise UserError, naming the first few of each kind, where images of a run are no longer what they were."""
    words = []
    for kind, ids in kinds.items():
        more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
        words += [f"{kind}: {', '.join(ids[:SHOWN])}{more}"] if ids else []
    if words:
        raise UserError(f"the images are no longer those of run {run_id} ({'; '.join(words)}): put them back, or run {entry_point} again")


def _given(data: DiscoveryData) -> list[str]:
    """Return the label that the user's folders or table give each training image, '' for none; a benchmark's are its truth, so none."""
    if data.given is None:
        return [""] * len(data.train)
    labels = np.where(data.given, data.train.labels, NOBODY_SAID)
    return ["" if label == NOBODY_SAID else data.class_names[label] for label in labels]


def rows(data: DiscoveryData, found: Found, decided: Decided, take: str) -> list[Row]:
    """Return the rows of the table, those of training images in their order, then the test images.

    What people have labelled keeps its label; of a named category all but its outliers is labelled (`take` = all), or its core alone.
    Images of one content have one label. Paths are absolute, or below the table's folder where the images are in no files of their own.
    """
    by_id = {row["id"]: row for row in found.rows}
    assigned = [by_id[one] for one in data.train.ids]
    own = [plain(row["label"]) or label for row, label in zip(assigned, _given(data), strict=True)]
    own = [decided.renamed.get(label, label) for label in own]
    made = [decided.labels[int(row["cluster"]), int(row["half"])] if row["position"] in TAKEN[take] else "" for row in assigned]
    contents = [found.contents[one] for one in data.train.ids]
    settled = {
        content: label for content, label in reversed(list(zip(contents * 2, own + made, strict=True))) if label
    }  # people's go first
    labelled = [label or settled.get(content, "") for content, label in zip(contents, own, strict=True)]
    groups = grouped([row["duplicate_group"] for row in assigned], data.groups)
    splits = _splits(data, contents, own, groups)
    train = [_row(*cells) for cells in zip(_paths(data.train), labelled, groups, splits, strict=True)]
    names = ["" if label == NOBODY_SAID else data.class_names[label] for label in data.test.labels]
    return train + [_row(path, decided.renamed.get(name, name), "", "test") for path, name in zip(_paths(data.test), names, strict=True)]


def _splits(data: DiscoveryData, contents: Sequence[str], own: Sequence[str], groups: Sequence[str]) -> list[str]:
    """Return the split of each training image: val for what people hold out, and its copies.

    Where one of the same group is trained on, all of the group is, which is said: no table may hold a group out in part.
    """
    chosen = np.zeros(len(data.train), bool) if data.held_out is None else data.held_out
    held = {content for content, is_held, label in zip(contents, chosen, own, strict=True) if is_held and label}
    splits = ["val" if content in held else "train" for content in contents]
    training = {group for group, split in zip(groups, splits, strict=True) if group and split == "train"}
    torn = [i for i, (group, split) in enumerate(zip(groups, splits, strict=True)) if split == "val" and group in training]
    for i in torn:
        splits[i] = "train"
    if torn:
        first = data.train.ids[torn[0]]
        print(
            f"taxon: {len(torn)} held-out images (split = val) look like training images, such as {first}: all train now", file=sys.stderr
        )
    return splits


def _row(path: str, label: str, group: str, split: str) -> Row:
    return dict(zip(COLUMNS, (path, label, group, split), strict=True))


def _paths(images: ImageSet) -> list[str]:
    """Return the path of each image: absolute, or, of one in no file of its own, that of the file which is made of it."""
    if isinstance(images.source, FileImages):
        return [os.path.abspath(path) for path in images.source.paths]
    return ["/".join(("images", *map(safe_name, one.split("/")))) + ".png" for one in images.ids]


def grouped(duplicates: Sequence[str], given: np.ndarray | None) -> list[str]:
    """Return the group of each of N images, '' for one that is alone: near-duplicates, and what the user has grouped, are together.

    Args:
        duplicates: number of the group of near-duplicates as text, '' = none.
        given: (N,) numbers of the user's groups; None = there are none.
    """
    theirs = range(len(duplicates)) if given is None else given.tolist()
    component = heap.joined(duplicates, list(map(str, theirs)))
    counts = Counter(component.tolist())
    names: dict[int, str] = {}
    for number in component.tolist():
        if counts[number] > 1:
            names.setdefault(number, f"group {len(names) + 1}")
    return [names.get(number, "") for number in component.tolist()]


def counted(table: Sequence[Row]) -> dict[str, Any]:
    """Return how many images of the table are labelled with which class, how many are not, and how many are for testing."""
    train = [row for row in table if row["split"] != "test"]
    classes = Counter(row["label"] for row in train if row["label"])
    return {"classes": dict(sorted(classes.items())), "unlabelled": len(train) - classes.total(), "test": len(table) - len(train)}


def _fill(data: DiscoveryData, table: Sequence[Row], folder: Path, below: Path | None) -> None:
    """Write the table into a folder, and images that are in no files; or the table alone, where these lie `below` another folder."""
    if below is None:
        _write_images(data, folder)
    moved = table if below is None else [row | {"path": os.path.join(below, row["path"])} for row in table]
    (folder / TABLE).write_bytes(_csv(moved))


def _store(fill: Callable[[Path, Path | None], object], summary: dict[str, Any], output: Path | None, run: Recorder) -> Path | None:
    """Let `fill` write the artifacts and the new folder; return where the table is for sure. The folder appears as a whole, and last."""
    folder = scratch(FOLDER)
    try:
        with nullcontext(folder) if output is None else new_folder.appearing(output) as made:
            fill(made, None)
            if output is not None:
                fill(folder, output)
            run.folder(folder, FOLDER)
            run.json(summary, "summary.json", FOLDER)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if output is not None:
        return output / TABLE
    stored = local_artifacts(getattr(run, "artifact_uri", "runs:/"))
    return None if stored is None else stored / FOLDER / TABLE


def _write_images(data: DiscoveryData, folder: Path) -> None:
    """Write PNG files of the images that are in no files of their own."""
    for images in (data.train, data.test):
        if isinstance(images.source, FileImages):
            continue
        for i, path in enumerate(bar(_paths(images), "writing images")):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.source.load(np.array([i]))[0]).save(folder / path)


def _csv(table: Sequence[Row]) -> bytes:
    """Return the table as CSV. No cell is guarded against spreadsheets, as those of an answer are: paths and labels are read back."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(table)
    return b"\xef\xbb\xbf" + text.getvalue().encode()


def _say(summary: dict[str, Any], place: Path | None, params: Mapping[str, str]) -> None:
    """Print how many images are labelled with which class, and the command that goes on."""
    for name, count in summary["classes"].items():
        print(f"  {name:40s} {count:8d}")
    print(f"{sum(summary['classes'].values())} images labelled, {summary['unlabelled']} unlabelled, {summary['test']} for testing")
    if not summary["unlabelled"]:
        print(f"every image has a class: nothing is left to discover ({place or TABLE})")
        return
    if place is None:
        print(f"fetch it first: mlflow artifacts download --artifact-path {FOLDER} --run-id <this run> --dst-path .")
    print(f"next: {next_command(str(place or f'{FOLDER}/{TABLE}'), params)}", flush=True)


def next_command(table: str, params: Mapping[str, str]) -> str:
    """Return the command of the next pipeline: with the network of the last one, where it is not what image files get by themselves."""
    words = ["mlflow", "run", ".", "-e", PSEUDO_PIPELINE.name, "-P", f"images={table}"]
    model = configuration.param(params, "model_name") or ""
    if model and model != recipes.recipe_for("folder", "auto").model_name:
        words += ["-P", f"model_name={model}"]
    size = configuration.param(params, "image_size") or ""
    if size and size != str(recipes.recipe_for("folder", model or "auto").image_size):
        words += ["-P", f"image_size={size}"]
    if weights := configuration.param(params, "weights"):
        words += ["-P", f"weights={weights}"]
    return shlex.join(words)
