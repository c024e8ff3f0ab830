"""The first stage of the posts family: read, check, split, and say what the data are like."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.config import canonical
from core.data import post_splits, posts
from core.data.post_splits import PARTS, PostSplit
from core.data.posts import Posts
from core.errors import UserError
from core.stages.posts.config_tools import PreparePostsConfig
from core.stages.posts.results import named
from core.tracking.recorder import Recorder
from core.tracking.store import scratch

ENTRY_POINT = "prepare_posts"
FOLDER = "posts"


def run(config: PreparePostsConfig, run: Recorder) -> dict[str, Any]:
    """Write train.csv, val.csv, test.csv, predict.csv and report.json; return the report."""
    post_splits.check_fractions(config.val_fraction, config.test_fraction, config.seed)
    output = _output_folder(config.output_dir)
    labelled = posts.load(config.data_root, config.train_file)
    if labelled.labels is None:
        raise UserError(f"train_file '{config.train_file}' has no tag at all; give the index of the labelled posts")
    unlabelled = posts.load(config.data_root, config.test_file) if config.test_file else None
    split = post_splits.make_split(labelled, config.val_fraction, config.test_fraction, config.seed)
    parts = {name: labelled.subset(getattr(split, name)) for name in PARTS}
    report = describe(labelled, unlabelled, split, parts) | {"parameters": canonical(config, results_only=True)}
    run.dataset(FOLDER, labelled.digest, config.data_root, "train")
    folder = scratch(FOLDER)
    try:
        for name, part in parts.items() | ({"predict": unlabelled}.items() if unlabelled else ()):
            post_splits.write_csv(folder / f"{name}.csv", part, config.data_root)
        (folder / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        run.folder(folder, FOLDER)
        if output:
            publish(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    run.metrics({f"data/{name}_posts": float(len(part)) for name, part in parts.items()}, 0)
    print(summary_of(report))
    return report


def _output_folder(given: str) -> Path | None:
    """Make the output folder before anything is computed; UserError when it cannot be written."""
    if not given:
        return None
    folder = Path(given).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir '{given}' cannot be made ({error.strerror}); give a folder that can be written") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"output_dir '{given}' cannot be written; give another folder")
    return folder


def publish(source: Path, target: Path) -> None:
    """Copy the files of `source` into `target`; each appears whole or not at all."""
    for path in sorted(source.iterdir()):
        partial = target / f".{path.name}.part"
        shutil.copyfile(path, partial)
        partial.replace(target / path.name)


def describe(labelled: Posts, unlabelled: Posts | None, split: PostSplit, parts: Mapping[str, Posts]) -> dict[str, Any]:
    """Return the JSON-ready report: counts, class shares, encodings, duplicates and their label conflicts, digests."""
    duplicates = duplicate_groups(labelled, split)
    tests = {"labelled": labelled} | ({"predict": unlabelled} if unlabelled else {})
    by_class = {name: _class_counts(part) for name, part in {**parts, "labelled": labelled}.items()}
    return {
        "posts": {name: len(part) for name, part in {**parts, **tests}.items()},
        "by_class": by_class,
        "class_shares": {name: {tag: count / sum(counts.values()) for tag, count in counts.items()} for name, counts in by_class.items()},
        "encodings": {name: dict(part.encodings) for name, part in tests.items()},
        "guessed_encodings": {name: {encoding: list(files) for encoding, files in part.guessed.items()} for name, part in tests.items()},
        "empty_texts": {name: part.n_empty for name, part in tests.items()},
        "duplicates": {
            "groups": len(duplicates),
            "posts": sum(len(one["guids"]) for one in duplicates),
            "groups_by": {kind: sum(kind in one["by"] for one in duplicates) for kind in post_splits.KINDS},
            "label_conflicts": sum(len(set(one["tags"])) > 1 for one in duplicates),
            "list": duplicates,
        },
        "predict_also_labelled": _overlap(labelled, unlabelled),
        "data_digest": labelled.digest,
        "split_digest": split.digest,
    }


def duplicate_groups(labelled: Posts, split: PostSplit) -> list[dict[str, Any]]:
    """Return guids, tags, part and what is shared ('image', 'similar image', 'text') of each group of several posts."""
    part_of = np.empty(len(labelled), object)
    for name in PARTS:
        part_of[getattr(split, name)] = name
    keys = post_splits.keys_of(labelled)
    members = defaultdict(list)
    for i, number in enumerate(split.groups.tolist()):
        members[number].append(i)
    return [
        {
            "guids": [labelled.guids[i] for i in rows],
            "tags": [labelled.tags[i] for i in rows],
            "part": part_of[rows[0]],
            "by": [kind for kind, values in keys.items() if _any_alike(kind, [values[i] for i in rows])],
        }
        for rows in members.values()
        if len(rows) > 1
    ]


def _any_alike(kind: str, values: Sequence[str]) -> bool:
    return any(i != j for j, i in post_splits.matches(kind, values, values).items())


def _class_counts(part: Posts) -> dict[str, int]:
    counts = np.bincount(part.truth, minlength=len(part.class_names))
    return dict(zip(part.class_names, counts.tolist(), strict=True))


def _overlap(labelled: Posts, unlabelled: Posts | None) -> dict[str, int]:
    """Return by what, and how often, posts to predict are among the labelled ones: their predictions flatter a model."""
    found = post_splits.leaks(labelled, unlabelled) if unlabelled else []
    return dict(Counter(leak.by for leak in found))


def summary_of(report: Mapping[str, Any]) -> str:
    """Return the lines that are printed: parts and classes, encodings, duplicates."""
    lines = []
    for name in PARTS:
        shares = "  ".join(f"{tag} {count} ({report['class_shares'][name][tag]:.1%})" for tag, count in report["by_class"][name].items())
        lines.append(f"{name:8s}{report['posts'][name]:6d}  {shares}")
    if "predict" in report["posts"]:
        lines.append(f"predict {report['posts']['predict']:6d}")
    encodings = "; ".join(
        f"{name} " + ", ".join(f"{encoding} {count}" for encoding, count in counts.items()) + f", empty {report['empty_texts'][name]}"
        for name, counts in report["encodings"].items()
    )
    found = report["duplicates"]
    kinds = ", ".join(f"{kind} {count}" for kind, count in found["groups_by"].items())
    lines.append(f"texts: {encodings}")
    for name, found_as in report["guessed_encodings"].items():
        lines += [f"guessed: {name} {encoding} {len(files)}: {named(files)}" for encoding, files in found_as.items()]
    lines.append(
        f"duplicates: {found['groups']} groups of {found['posts']} posts ({kinds}), {found['label_conflicts']} with differing labels"
    )
    return "\n".join(lines)
