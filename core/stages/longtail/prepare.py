"""Preparing a long-tailed data set: check every image, find duplicates between the parts, write metadata, weights and a report."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from core.config import canonical
from core.data import class_folders, label_map, longtail, metadata
from core.data.class_folders import ClassFolder
from core.data.classification import ClassificationData, tail_classes
from core.data.images import UnreadableImages
from core.data.label_map import LabelMap
from core.data.longtail import PARTS, Duplicate
from core.data.metadata import Entry
from core.errors import UserError
from core.stages.longtail import output_folder
from core.stages.longtail.output_folder import ENTRY_POINT, REPORT, WEIGHTS
from core.stages.longtail.prepare_config import PrepareConfig
from core.tracking.recorder import Recorder
from core.tracking.store import scratch

Parts = Mapping[str, Sequence[Entry]]


def run(config: PrepareConfig, run: Recorder) -> dict[str, Any]:
    """Write {train,val,test}_metadata.csv, class_weights.csv and report.json as artifacts `metadata/` and into output_dir."""
    output_folder.require_usable(config.output_dir)
    parts = {
        part: longtail.read_part(*(part, *(getattr(config, f"{part}_{kind}") for kind in ("dir", "meta", "annotations")))) for part in PARTS
    }
    classes = label_map.make(parts)
    try:
        data = longtail.assemble(longtail.name_of(config.train_dir, config.train_meta or config.train_annotations), parts, classes)
    except UnreadableImages as error:
        run.json({"unreadable": [[str(path), reason] for path, reason in error.unreadable]}, REPORT, "metadata")
        raise UserError(f"{error}; metadata/{REPORT} of this run lists them") from None
    for part in PARTS:
        if parts[part]:
            run.dataset(data.name, data.digest, str(parts[part][0].path.parent), part)
    report = _report(config, data, classes, longtail.duplicates_across(data))
    files = _files(data, classes, parts)
    report["files"] = {name: sha256(content).hexdigest() for name, content in files.items()}
    _log(run, report, files)
    if report["duplicates"]["pairs"] and not config.allow_duplicates:
        raise UserError(f"{_duplicates_line(report)}; remove one of each or pass allow_duplicates=true (metadata/{REPORT} lists them)")
    if config.output_dir:
        output_folder.publish(config.output_dir, report, files)
    _print(config, report, parts)
    return report


def _report(config: PrepareConfig, data: ClassificationData, classes: LabelMap, duplicates: Sequence[Duplicate]) -> dict[str, Any]:
    """Return the JSON-ready report: counts of each class and part, tail, weights, duplicates."""
    sets = {part: getattr(data, part) for part in PARTS}
    n_classes, tail = len(data.class_names), set(tail_classes(data.class_counts).tolist())
    counts = {part: np.bincount(images.labels, minlength=n_classes).tolist() for part, images in sets.items()}
    rows = [
        {"label": classes.labels[i], "name": name, "weight": float(data.weights[i]), "tail": i in tail}
        | {part: counts[part][i] for part in PARTS}
        | {key: attribute.names[attribute.of_class[i]] for key, attribute in data.attributes.items()}
        for i, name in enumerate(data.class_names)
    ]
    return {
        "made_by": ENTRY_POINT,
        "parameters": canonical(config),
        "data": data.name,
        "data_digest": data.digest,
        "images": {part: len(images) for part, images in sets.items()},
        "classes": rows,
        "without_images": {part: [row["name"] for row in rows if not row[part]] for part in PARTS if len(sets[part])},
        "imbalance_factor": max(counts["train"]) / min(counts["train"]),
        "attributes": {key: len(attribute.names) for key, attribute in data.attributes.items()},
        "duplicates": {
            "pairs": len(duplicates),
            "with_other_label": sum(pair.labels_differ for pair in duplicates),
            "list": [pair._asdict() for pair in duplicates],
            "within": {part: longtail.repeated_within(images) for part, images in sets.items()},
        },
        "left_out": {part: class_folders.left_out(*found) for part, found in _scanned(config).items()},
        "unreadable": [],
    }


def _scanned(config: PrepareConfig) -> dict[str, tuple[Path, Mapping[str, ClassFolder]]]:
    """Return folder and class folders of each part that is read from class folders."""
    given = {part: [getattr(config, f"{part}_{kind}") for kind in ("dir", "meta", "annotations")] for part in PARTS}
    folders = {part: Path(folder).expanduser().resolve() for part, (folder, *others) in given.items() if folder and not any(others)}
    return {part: (folder, class_folders.scan(folder, folder)) for part, folder in folders.items()}


def _files(data: ClassificationData, classes: LabelMap, parts: Parts) -> dict[str, bytes]:
    """Return the content of every CSV by its name; a part without images has none."""
    numbers = classes.labels if all(metadata.whole_number(label) == label for label in classes.labels) else range(len(classes.labels))
    of_class = [
        {"label_61": str(number), "label_name": name, **_cells(data, index)}
        for index, (number, name) in enumerate(zip(numbers, classes.names, strict=True))
    ]
    files = {
        output_folder.metadata_name(part): metadata.write(
            of_class[index]
            | {"image_name": entry.path.name, "image_path": entry.file}
            | ({metadata.GROUP: entry.group} if entry.group else {})
            for entry, index in zip(entries, classes.indices[part].tolist(), strict=True)
        )
        for part, entries in parts.items()
        if entries
    }
    files[WEIGHTS] = metadata.write_weights(
        {"label": row["label_61"], "class": row["label_name"], "count": count, "weight": repr(weight)}
        for row, count, weight in zip(of_class, data.class_counts.tolist(), data.weights.tolist(), strict=True)
    )
    return files


def _cells(data: ClassificationData, index: int) -> dict[str, str]:
    """Return what the attributes say of a class, by CSV column."""
    cells: dict[str, str] = {}
    for key, attribute in data.attributes.items():
        id_column, name_column = label_map.ATTRIBUTES[key]
        value = int(attribute.of_class[index])
        cells |= {name_column: attribute.names[value]} | ({id_column: str(value)} if id_column else {})
    if "severity" in cells:
        cells["is_healthy"] = str(int(cells["severity"] == "healthy"))
    return cells


def _log(run: Recorder, report: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Store the files and the report as artifacts, the key figures as metrics and tags."""
    folder = scratch("metadata")
    try:
        for name, content in files.items():
            (folder / name).write_bytes(content)
            run.file(folder / name, "metadata")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    run.json(report, REPORT, "metadata")
    values = {f"data/{part}_images": count for part, count in report["images"].items()} | {
        "data/classes": len(report["classes"]),
        "data/tail_classes": sum(row["tail"] for row in report["classes"]),
        "data/tail_images": sum(row["train"] for row in report["classes"] if row["tail"]),
        "data/imbalance_factor": report["imbalance_factor"],
        "data/duplicates": report["duplicates"]["pairs"],
        "data/duplicates_with_other_label": report["duplicates"]["with_other_label"],
    }
    run.metrics({key: float(value) for key, value in values.items()}, 0)
    run.tags({"taxon.data": report["data"], "taxon.data_digest": report["data_digest"], "taxon.duplicates": report["duplicates"]["pairs"]})


def _duplicates_line(report: Mapping[str, Any]) -> str:
    found = report["duplicates"]
    first = found["list"][0]
    return (
        f"images in two parts: {found['pairs']} ({found['with_other_label']} with another label), "
        f"the first is {first['first']} = {first['second']}"
    )


def _print(config: PrepareConfig, report: Mapping[str, Any], parts: Parts) -> None:
    """Print what was found, and how to train with it."""
    rows = sorted(report["classes"], key=lambda row: row["train"])
    tail = [row for row in rows if row["tail"]]
    print(f"{report['data']}: {len(rows)} classes, " + ", ".join(f"{part} {count}" for part, count in report["images"].items()))
    print(f"training images of a class: {rows[0]['train']} to {rows[-1]['train']} (imbalance factor {report['imbalance_factor']:.1f})")
    print(f"tail, the rarest {len(tail)}: " + ", ".join(f"{row['name']} {row['train']}" for row in tail))
    for part, names in report["without_images"].items():
        if names:
            print(f"without images in {part}: {', '.join(names)}")
    print(_duplicates_line(report) if report["duplicates"]["pairs"] else "no image is in two parts")
    if config.output_dir:
        folder = Path(config.output_dir).expanduser().resolve()
        options: dict[str, str | Path] = {"class_weights": folder / WEIGHTS}
        for part, entries in parts.items():
            if entries:
                options[f"{part}_dir"] = str(entries[0].path).removesuffix(entries[0].file).rstrip("/")
                options[f"{part}_meta"] = folder / output_folder.metadata_name(part)
        words = [shlex.quote(f"{name}={value}") for name, value in options.items()]
        print("train with: mlflow run . -e train_longtail -P " + " -P ".join(words))
