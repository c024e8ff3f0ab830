"""Where the posts tools read their CSV files from, and where they put what they made: the run, and a folder of the user's."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core import digest
from core.data import post_splits
from core.data.posts import Posts
from core.errors import UserError
from core.lineage import NOTHING, Item
from core.stages.inputs import file_at
from core.stages.leakage import Parts, evaluated
from core.tracking import stage
from core.tracking.recorder import Recorder
from core.tracking.store import scratch

NAMED = 5  # posts that an error names


def part_path(config: Any, part: str) -> Path:
    """Return the CSV of a part: `<part>_csv` where given, else `<part>.csv` in `data_dir`; UserError where neither says one."""
    given, option = getattr(config, f"{part}_csv"), f"{part}_csv"
    if given:
        return file_at(given, option, f"{part}*.csv")
    if not config.data_dir:
        raise UserError(f"no {part} posts are named; give {option}, or data_dir = a folder of prepare_posts (runs:/<id>/posts)")
    return file_at(config.data_dir, "data_dir", f"{part}.csv")


def read_part(config: Any, part: str) -> Posts:
    """Return the posts of a part, all with labels; UserError where they have none."""
    path = part_path(config, part)
    found = post_splits.read_csv(path, config.data_root)
    if found.labels is None:
        raise UserError(f"{path} has no labels; give the CSV of labelled posts as {part}_csv")
    return found


def refuse_leaks(train: Posts, held_out: dict[str, Posts], what: str, remedy: str) -> None:
    """Raise UserError naming the validation and test posts that `train` holds too, by guid, image or text.

    Args:
        train: posts that are trained on. held_out: name of a part -> its posts.
        what: what holds them, e.g. the file. remedy: what to do.
    """
    found = [(name, leak) for name, part in held_out.items() for leak in post_splits.leaks(train, part)]
    if found:
        raise UserError(
            f"{what} holds {named([f'{name} post {leak.held_out} (same {leak.by} as {leak.train})' for name, leak in found])}; {remedy}"
        )


def refuse_sources(sources: Sequence[str], held_out: dict[str, Posts], what: str, remedy: str) -> None:
    """Raise UserError when rows were made from validation or test posts: a cropped image or a reworded text hides whose it is."""
    for name, part in held_out.items():
        found = sorted({source.strip() for source in sources} & set(part.guids))
        if found:
            raise UserError(f"{what} holds rows that were made from {name} posts {named(found)}; {remedy}")


def items_of(posts: Posts) -> tuple[Item, ...]:
    """Return the keys of each post: its image file and its text, as `post_splits` compares them; posts that share one are one item."""
    texts = [post_splits.normalise(text) for text in posts.texts]
    pairs = zip(posts.fingerprints, texts, strict=True)
    return tuple((image.content, *([digest.of_bytes(text.encode("utf-8", "surrogatepass"))] if text else [])) for image, text in pairs)


def parts_of(rows: Mapping[str, Posts]) -> Parts:
    """Return the posts of each part as items."""
    return Parts(**{part: items_of(posts) for part, posts in rows.items()})


def require_fair(predictor: Any, posts: Posts, part: str, option: str, given: str) -> None:
    """Check a finished classifier against the posts that it is evaluated on (core.stages.leakage.evaluated)."""
    evaluated(getattr(predictor, "lineage", NOTHING), items_of(posts), part, "posts", option, given)


def named(items: Sequence[str]) -> str:
    """Return the first items of a list for an error's line, and how many more there are."""
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more


def require_folder(output_dir: str) -> Path | None:
    """Make the user's output folder before anything is computed ('' = none); UserError when it cannot be written."""
    if not output_dir:
        return None
    folder = Path(output_dir).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir '{output_dir}' cannot be made ({error.strerror}); give a folder that can be written") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"output_dir '{output_dir}' cannot be written; give another folder")
    return folder


@contextlib.contextmanager
def made_in(run: Recorder, name: str, output_dir: str) -> Iterator[tuple[Path, Callable[[dict[str, Any]], None]]]:
    """Give a folder to write a tool's files into, and the function that publishes them with a summary.

    Published are the files as artifacts below `name`, summary.json and the manifest that lets a pipeline reuse the stage; a user's
    output_dir gets the files too, each whole or not at all.
    """
    target = require_folder(output_dir)
    place = scratch(name)
    folder = place / name
    folder.mkdir()

    def publish(summary: dict[str, Any]) -> None:
        stage.publish(run, place, summary)
        if target is not None:
            copy_tree(folder, target)

    try:
        yield folder, publish
    finally:
        shutil.rmtree(place, ignore_errors=True)


def copy_tree(source: Path, target: Path) -> None:
    """Copy all files below `source` to `target`; each appears whole or not at all."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        final = target / path.relative_to(source)
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{final.name}.part")
        shutil.copyfile(path, partial)
        partial.replace(final)
