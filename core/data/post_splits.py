"""Train, validation and test posts: stratified by class, and never the same image or text on two sides.

Also the CSV files `guid,text,image_path,label` that hold the parts, and the search for held-out posts among training ones.
"""

from __future__ import annotations

import csv
import os
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from core import digest
from core.data import perceptual_hash, text_cleaning
from core.data.posts import CLASS_NAMES, Posts, check_guids, csv_rows, parse_tags, refuse_escape, require_all
from core.errors import UserError

COLUMNS = ("guid", "text", "image_path", "label")
PARTS = ("train", "val", "test")
KINDS = ("image", "similar image", "text")
BY_LOOK = "similar image"  # compared by distance, the other kinds for equality


@dataclass(frozen=True, eq=False)
class PostSplit:
    """A partition of posts.

    train, val, test: sorted int64 indices, disjoint, together all posts. groups: (N,) int64, posts with one number stay together.
    digest: of the guids of each part.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    groups: np.ndarray
    digest: str


@dataclass(frozen=True)
class Leak:
    """A held-out post that training holds too: the two guids, and by what ('guid', 'image', 'similar image' or 'text')."""

    held_out: str
    train: str
    by: str


def normalise(text: str) -> str:
    """Return what makes two texts the same: compatible characters, case and blanks levelled; repost prefix and addresses left out.

    Every repost carries its own short link, so links would hide that texts are equal; a text of nothing else keeps them.
    """
    levelled = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return text_cleaning.clean(levelled, ("retweets", "urls", "whitespace")) or levelled


def keys_of(posts: Posts) -> dict[str, list[str]]:
    """Return what each post is compared by, for each of KINDS; '' (an empty text, a plain picture) is like nothing else."""
    return {
        "image": [image.content for image in posts.fingerprints],
        BY_LOOK: [image.look for image in posts.fingerprints],
        "text": [normalise(text) for text in posts.texts],
    }


def matches(kind: str, ours: Sequence[str], theirs: Sequence[str]) -> dict[int, int]:
    """Return index in `theirs` -> first index in `ours` of the same non-empty key; looks are the same when few bits differ."""
    if kind == BY_LOOK:
        return {j: i for i, j in reversed(perceptual_hash.alike(ours, theirs).tolist())}
    first = {key: i for i, key in reversed(list(enumerate(ours))) if key}
    return {j: first[key] for j, key in enumerate(theirs) if key in first}


def group(n: int, keys: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Return (n,) int64 group numbers, in order of first members: posts with the same key of any kind are in one group, transitively."""
    alike = [perceptual_hash.alike(keys[BY_LOOK], keys[BY_LOOK])] if BY_LOOK in keys else []
    equal = [list(matches(kind, keys[kind], keys[kind]).items()) for kind in keys if kind != BY_LOOK]
    rows, columns = np.concatenate([np.array(pairs, np.int64).reshape(-1, 2) for pairs in (*alike, *equal)]).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    _, components = connected_components(graph, directed=False)
    _, first, inverse = np.unique(components, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first)).astype(np.int64)[inverse]


def groups_of(posts: Posts) -> np.ndarray:
    """Return (N,) int64 group numbers of posts: duplicates, by file, look or text, are no further evidence of a score."""
    return group(len(posts), keys_of(posts))


def make_split(posts: Posts, val_fraction: float, test_fraction: float, seed: int) -> PostSplit:
    """Split labelled posts; the result does not depend on the order of the rows. UserError for fractions that cannot be had."""
    check_fractions(val_fraction, test_fraction, seed)
    if posts.labels is None:
        raise UserError("posts without tags cannot be split; give the file whose tags are known")
    return split_groups(posts.guids, posts.labels, groups_of(posts), val_fraction, test_fraction, seed)


def check_fractions(val_fraction: float, test_fraction: float, seed: int) -> None:
    """Raise UserError for fractions or a seed out of range; the comparisons are written so that NaN fails them."""
    for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= fraction < 1:
            raise UserError(f"{name} must be at least 0 and below 1, not {fraction}")
    if not val_fraction + test_fraction < 1:
        raise UserError(f"val_fraction {val_fraction} + test_fraction {test_fraction} leaves nothing to train on; lower them")
    if seed < 0:
        raise UserError(f"seed must be 0 or more, not {seed}")


def split_groups(
    guids: Sequence[str], labels: np.ndarray, groups: np.ndarray, val_fraction: float, test_fraction: float, seed: int
) -> PostSplit:
    """Split posts with labels (N,) into parts of whole groups (N,), each class in proportion.

    Groups of several go first, each where its classes are most wanted; single posts then fill the quotas class by class, so that
    a part misses its share of a class only where groups are too large for it.
    """
    fractions = np.array([1 - val_fraction - test_fraction, val_fraction, test_fraction])
    rng = np.random.default_rng(seed)
    order = np.array(sorted(range(len(guids)), key=lambda i: guids[i]), np.int64)  # whatever the order of the rows
    order = rng.permutation(order)
    members: dict[int, list[int]] = defaultdict(list)
    for i, number in zip(order.tolist(), groups[order].tolist(), strict=True):
        members[number].append(i)
    several = sorted((rows for rows in members.values() if len(rows) > 1), key=len, reverse=True)
    part_of = np.zeros(len(guids), np.int64)
    targets = fractions[:, None] * np.bincount(labels, minlength=1)
    have = _place_groups(several, labels, targets, part_of)
    singles = np.array([rows[0] for rows in members.values() if len(rows) == 1], np.int64)
    for label in np.unique(labels[singles]):
        wanted = np.maximum(np.floor(targets[1:, label] + 0.5).astype(int) - have[1:, label], 0)
        rows = singles[labels[singles] == label]
        part_of[rows[: wanted[0]]] = 1
        part_of[rows[wanted[0] : wanted.sum()]] = 2
    parts = [np.flatnonzero(part_of == part) for part in range(3)]
    for name, part, fraction in zip(PARTS, parts, fractions, strict=True):
        if fraction > 0 and not len(part):
            raise UserError(f"{len(guids)} posts in {len(members)} groups are too few for a share of {fraction:g} as {name}; add posts")
    train, val, test = parts
    return PostSplit(train, val, test, groups, digest.of_json([sorted(guids[i] for i in part.tolist()) for part in parts]))


def _place_groups(several: Sequence[Sequence[int]], labels: np.ndarray, targets: np.ndarray, part_of: np.ndarray) -> np.ndarray:
    """Write the part of each group into `part_of` and return (3,C) counts; each goes where it lowers the relative squared miss most."""
    have = np.zeros(targets.shape, np.int64)
    allowed = targets.sum(1) > 0
    for rows in several:
        counts = np.bincount(labels[rows], minlength=targets.shape[1])
        miss = ((have + counts - targets) ** 2 - (have - targets) ** 2) / np.maximum(targets, 1e-9)
        costs = np.where(allowed, np.where(counts > 0, miss, 0).sum(1), np.inf)
        best = int(np.argmin(costs))
        part_of[list(rows)] = best
        have[best] += counts
    return have


def leaks(train: Posts, held_out: Posts) -> list[Leak]:
    """Return the held-out posts that are in `train` too, by guid, file content, look of the image or normalised text."""
    ours, theirs = ({"guid": list(posts.guids)} | keys_of(posts) for posts in (train, held_out))
    return [
        Leak(held_out.guids[j], train.guids[i], kind) for kind in ours for j, i in sorted(matches(kind, ours[kind], theirs[kind]).items())
    ]


def write_csv(path: Path, posts: Posts, image_root: str | Path, extra: Mapping[str, Sequence[str]] | None = None) -> None:
    """Write `guid,text,image_path,label` (RFC 4180, UTF-8) and further columns; label is '' without labels.

    image_path is relative to `image_root`, or to the CSV's folder for images that lie there. UserError for images elsewhere.
    """
    extra = dict(extra or {})
    roots = (Path(image_root).expanduser().resolve(), path.parent.resolve())
    rows = zip(posts.guids, posts.texts, [_relative(image, roots) for image in posts.image_paths], posts.tags, *extra.values(), strict=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *extra])
        writer.writerows(rows)


def _relative(image: Path, roots: Sequence[Path]) -> str:
    resolved = image.resolve()
    for root in roots:
        if resolved.is_relative_to(root):
            name = resolved.relative_to(root)
            if root == roots[0] or not (roots[0] / name).exists():  # else it would be read back as another file
                return name.as_posix()
    raise UserError(f"{image} lies neither in {roots[0]} nor beside the CSV in {roots[1]}: copy it to one of them")


def read_csv(path: str | Path, image_root: str | Path = "", class_names: tuple[str, ...] = CLASS_NAMES) -> Posts:
    """Return the posts of a CSV with at least guid, text and image_path (comma, semicolon or tab; other columns are ignored).

    image_path is looked up in `image_root` ('' = none), then beside the CSV. Raises UserError for missing columns, short rows,
    unknown labels, guids that stand twice, missing images (all at once) and paths that lead out of both folders.
    """
    path = Path(path).expanduser()
    rows, places, encoding = _rows(path)
    check_guids([(row["guid"], where) for row, where in zip(rows, places, strict=True)])
    labels = parse_tags([row.get("label", "").strip().lower() for row in rows], places, class_names)
    roots = tuple(Path(root).expanduser().resolve() for root in ([image_root] if str(image_root) else []) + [path.parent])
    found = [_locate(row["image_path"], roots, where) for row, where in zip(rows, places, strict=True)]
    require_all([row["image_path"] for row, image in zip(rows, found, strict=True) if image is None], roots[0], path)
    images = tuple(image for image in found if image is not None)
    guids, said = (tuple(row[name] for row in rows) for name in ("guid", "text"))
    return Posts(guids, said, images, labels, class_names, {encoding: len(rows)})


def read_column(path: str | Path, name: str) -> list[str]:
    """Return one column of a CSV of posts, in the order of its rows ('' where the file has no such column)."""
    return [row.get(name) or "" for row in _rows(Path(path).expanduser())[0]]


def _rows(path: Path) -> tuple[list[dict[str, str]], list[str], str]:
    """Return the rows, where each stands, and the file's encoding; UserError for a file that is no CSV of posts."""
    rows, places, encoding = csv_rows(path, COLUMNS, COLUMNS[:3])
    if not rows:
        raise UserError(f"{path} has no row; add one line {','.join(COLUMNS)} for each post")
    return [row | {"guid": row["guid"].strip()} for row in rows], places, encoding


def _locate(given: str, roots: Sequence[Path], where: str) -> Path | None:
    """Return the image file that a CSV means, None where there is none; UserError for a path that leads out of the folders."""
    name = given.strip().replace("\\", "/")  # files made on Windows
    paths = [root / name for root in roots] if name else []
    for path in paths:
        if os.path.isfile(path):
            refuse_escape(path, roots)
            return path
    if paths and not any(path.resolve().is_relative_to(root) for path in paths for root in roots):
        raise UserError(f"{where}: image_path '{given}' leads out of {roots[0]}: write it relative to that folder")
    return None
