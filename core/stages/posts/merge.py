"""Training posts and variants of bad cases as one table, with where each row comes from; never a validation or test post.

What a held-out post is known by: its guid, the guid a row was made from, the content and look of its image, its normalised text.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.data import bad_cases, post_splits, texts
from core.data.posts import Posts
from core.errors import UserError
from core.stages.inputs import file_at
from core.stages.posts import results
from core.stages.posts.config_tools import MergeConfig
from core.tracking.recorder import Recorder

ENTRY_POINT = "merge_badcase_aug"
FOLDER = "train_aug"
CSV = "train_aug.csv"
TABLES = {"badcase_image_csv": "badcase_aug*.csv", "badcase_text_csv": "badcase_text*.csv"}  # option: its file in a folder
ORIGINAL, ADDED = "original", "added"
# A variant may come to look or read like a held-out post by chance (a flip, a shortened text); its guid or file cannot.
BY_CHANCE = ("similar image", "text")
REMEDY = "training on held-out posts would make every figure on them worthless: remove these rows"


@dataclass(frozen=True, eq=False)
class Rows:
    """Posts with, for each, the guid it was made from ('' for a post that is new), and what kind of row it is."""

    posts: Posts
    sources: tuple[str, ...]
    origins: tuple[str, ...]

    def keep(self, mask: Sequence[bool] | np.ndarray) -> Rows:
        """Return the rows where `mask` (N,) holds."""
        rows = np.flatnonzero(mask)
        return Rows(self.posts.subset(rows), tuple(self.sources[i] for i in rows), tuple(self.origins[i] for i in rows))


def run(config: MergeConfig, run: Recorder) -> dict[str, Any]:
    """Write train_aug/train_aug.csv, images/ of the variants, and report.json; return the report."""
    given = {option: getattr(config, option) for option in TABLES}
    if not any(given.values()):
        raise UserError("there is nothing to merge; give badcase_image_csv, badcase_text_csv or both")
    train = training_rows(config)
    held_out = {"validation": results.read_part(config, "val"), "test": results.read_part(config, "test")}
    reasons = _reasons(config, held_out)
    variants = [read_rows(file_at(uri, name, TABLES[name]), config.data_root, name) for name, uri in given.items() if uri]
    with results.made_in(run, FOLDER, config.output_dir) as (folder, publish):
        merged, dropped = merge(train, variants, held_out, reasons)
        run.dataset("posts/train_aug", merged.posts.digest, config.data_root, "training")
        write(folder, merged, reasons, config.data_root)
        report = describe(merged, dropped)
        (folder / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
        publish(report)
    run.metrics(report["metrics"], 0)
    print(summary_of(report))
    return report


def _reasons(config: MergeConfig, held_out: dict[str, Posts]) -> dict[str, str] | None:
    """Return guid -> reason of the bad cases, None without their file; UserError when one is a held-out post."""
    if not config.badcase_csv:
        return None
    path = file_at(config.badcase_csv, "badcase_csv", "bad_cases*.csv")
    cases = bad_cases.read(path, config.data_root)
    results.refuse_leaks(cases.posts, held_out, str(path), REMEDY)
    return dict(zip(cases.posts.guids, cases.reasons, strict=True))


def training_rows(config: MergeConfig) -> Rows:
    """Return the training posts; those without `source_guid` are their own source."""
    results.read_part(config, "train")  # with labels
    found = read_rows(results.part_path(config, "train"), config.data_root, "train_csv")
    sources = tuple(source or guid for source, guid in zip(found.sources, found.posts.guids, strict=True))
    return Rows(found.posts, sources, tuple(ORIGINAL if origin == ADDED else origin for origin in found.origins))


def read_rows(path: Path, data_root: str, option: str) -> Rows:
    """Return the rows of a CSV of posts; `source_guid` and `origin` are columns that a file made by hand need not have."""
    if _is_empty(path):
        return Rows(Posts((), (), (), np.zeros(0, np.int64)), (), ())
    posts = post_splits.read_csv(path, data_root)
    if posts.labels is None:
        raise UserError(f"{option}: {path} has no labels; give each row its label")
    sources, origins = (post_splits.read_column(path, name) for name in ("source_guid", "origin"))
    return Rows(posts, tuple(source.strip() for source in sources), tuple(origin.strip() or ADDED for origin in origins))


def _is_empty(path: Path) -> bool:
    """Say whether a table of variants has its header only: no bad case had a variant."""
    rows = list(texts.rows(texts.decode(path.read_bytes())[0]))
    return len(rows) == 1 and {"guid", "text", "image_path"} <= {name.strip().lower() for name in rows[0]}


def merge(train: Rows, variants: Sequence[Rows], held_out: dict[str, Posts], reasons: dict[str, str] | None) -> tuple[Rows, dict[str, int]]:
    """Return the training posts followed by their variants, and how many variants were dropped by what they share by chance.

    Args:
        train: the training part. variants: tables of variants. held_out: name of a part -> its posts.
        reasons: guid -> reason of the bad cases that may have variants; None = any training post may.

    Raises:
        UserError: a validation or test post would come in (all that are meant are named), a row is a variant of an unknown post or of
            another class, or a guid stands twice.
    """
    results.refuse_leaks(train.posts, held_out, "train_csv", REMEDY)
    results.refuse_sources(train.sources, held_out, "train_csv", REMEDY)
    dropped: Counter[str] = Counter()
    kept = [train]
    for rows in variants:
        results.refuse_sources(rows.sources, held_out, "a table of variants", REMEDY)
        _check_sources(rows, train.posts, reasons)
        chance = _by_chance(rows, held_out)
        dropped.update(chance.values())
        kept.append(rows.keep([guid not in chance for guid in rows.posts.guids]))
    merged = _joined(kept)
    results.refuse_leaks(merged.posts, held_out, "the merged table", REMEDY)
    return merged, dict(dropped)


def _check_sources(rows: Rows, train: Posts, reasons: dict[str, str] | None) -> None:
    """Raise UserError for variants of posts that are not there or no bad case, and of another class."""
    tags = dict(zip(train.guids, train.tags, strict=True))
    for guid, source, tag in zip(rows.posts.guids, rows.sources, rows.posts.tags, strict=True):
        if source and source not in tags:
            raise UserError(f"row {guid} is a variant of {source}, which is not in train_csv; mend its source_guid or remove the row")
        if source and reasons is not None and source not in reasons:
            raise UserError(f"row {guid} is a variant of {source}, which is not in badcase_csv; give the CSV that it was made from")
        if source and tag != tags[source]:
            raise UserError(f"row {guid} is labelled {tag}, the post {source} that it is made from {tags[source]}; mend one of them")


def _by_chance(rows: Rows, held_out: dict[str, Posts]) -> dict[str, str]:
    """Return guid -> what it shares, of variants of training posts that came to read or look like a held-out post, and nothing worse."""
    if not len(rows.posts):
        return {}
    ours = {"guid": list(rows.posts.guids)} | post_splits.keys_of(rows.posts)
    held = [{"guid": list(part.guids)} | post_splits.keys_of(part) for part in held_out.values()]
    alike = {kind: {i for keys in held for i in post_splits.matches(kind, keys[kind], ours[kind])} for kind in ours}
    found = {}
    for i, guid in enumerate(rows.posts.guids):
        shared = [kind for kind in ours if i in alike[kind]]
        if shared and rows.sources[i] and set(shared) <= set(BY_CHANCE):
            found[guid] = shared[0]
    return found


def _joined(parts: Sequence[Rows]) -> Rows:
    """Return all rows as one table; UserError for a guid that stands twice."""
    guids = [guid for part in parts for guid in part.posts.guids]
    twice = sorted(guid for guid, count in Counter(guids).items() if count > 1)
    if twice:
        raise UserError(f"guids stand in more than one row: {results.named(twice)}; give every row a guid of its own")
    texts, images = ([value for part in parts for value in getattr(part.posts, name)] for name in ("texts", "image_paths"))
    labels = np.concatenate([part.posts.truth for part in parts])
    posts = Posts(tuple(guids), tuple(texts), tuple(images), labels, parts[0].posts.class_names)
    return Rows(posts, *(tuple(value for part in parts for value in getattr(part, name)) for name in ("sources", "origins")))


def write(folder: Path, merged: Rows, reasons: dict[str, str] | None, data_root: str) -> None:
    """Write train_aug.csv with source_guid, origin and reason; images from elsewhere than `data_root` are copied beside it."""
    root = Path(data_root).expanduser().resolve()
    paths = []
    for guid, path in zip(merged.posts.guids, merged.posts.image_paths, strict=True):
        if not path.resolve().is_relative_to(root):
            copy = folder / "images" / f"{guid}{path.suffix}"
            copy.parent.mkdir(exist_ok=True)
            path = Path(shutil.copyfile(path, copy))
        paths.append(path)
    posts = Posts(merged.posts.guids, merged.posts.texts, tuple(paths), merged.posts.labels, merged.posts.class_names)
    why = [(reasons or {}).get(source, "") for source in merged.sources]
    post_splits.write_csv(folder / CSV, posts, data_root, {"source_guid": merged.sources, "origin": merged.origins, "reason": why})


def describe(merged: Rows, dropped: dict[str, int]) -> dict[str, Any]:
    """Return the JSON-ready report."""
    origins = dict(Counter(merged.origins))
    counts = np.bincount(merged.posts.truth, minlength=len(merged.posts.class_names)).tolist()
    metrics = {f"merge/{name}": float(count) for name, count in origins.items()} | {"merge/dropped": float(sum(dropped.values()))}
    return {
        "posts": len(merged.posts),
        "by_origin": origins,
        "by_class": dict(zip(merged.posts.class_names, counts, strict=True)),
        "dropped": dropped,
        "data_digest": merged.posts.digest,
        "metrics": metrics,
    }


def summary_of(report: dict[str, Any]) -> str:
    """Return the lines that are printed."""
    origins = ", ".join(f"{name} {count}" for name, count in report["by_origin"].items())
    classes = "  ".join(f"{name} {count}" for name, count in report["by_class"].items())
    dropped = ", ".join(f"{count} by {name}" for name, count in report["dropped"].items()) or "none"
    return f"{report['posts']} posts to train on ({origins}): {classes}\nvariants left out because a held-out post is like them: {dropped}"
