"""Annotations in the layout of the AI Challenger 2018 crop disease set, which users bring themselves.

A JSON list of {"disease_class": 0..60, "image_id": "<file>.jpg"}, or a list file with lines like `images\\1_0.jpg 1`; the images lie in
a folder `images` beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from core.data import metadata
from core.data.ai_challenger_classes import CLASSES
from core.data.metadata import Entry
from core.errors import UserError


def read(path: str | Path, folder: str | Path = "") -> list[Entry]:
    """Return the annotated images in file order, with what the class table says of their labels.

    `folder` holds the images, or the folder `images` with them; '' = the annotation file's own folder. List files may write
    the paths from a folder further up. Raises UserError for a damaged file, a label outside 0..60, an image that is listed
    twice, does not exist or lies outside of `folder`.
    """
    path = Path(path).expanduser()
    text = metadata.read_text(path, "annotation")
    items = _from_json(text, path) if text.lstrip().startswith(("[", "{")) else _from_lines(text, path)
    base = metadata.base_folder(path, folder)
    entries = []
    for source, name, label in items:
        if not 0 <= label < len(CLASSES):
            raise UserError(f"{source}: label {label} is outside the map of {len(CLASSES)} classes (0 to {len(CLASSES) - 1})")
        entries.append(Entry(*metadata.locate(base, _places(name), source), str(label), source, CLASSES[label]))
    metadata.require_complete(entries, path, base)
    return entries


def _places(name: str) -> list[str]:
    """Return where an image may lie: as written, then without its leading folders, each also below `images`."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith(("/", "\\")):
        return [name.replace("\\", "/")]
    tails = ["/".join(parts[start:]) for start in range(len(parts))]
    return [name, *(place for tail in tails for place in (tail, f"images/{tail}"))]


def _from_json(text: str, path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield (where, image, label) of each item of a JSON list."""
    try:
        items = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{path} is not a list of annotations but nested far too deeply") from None
    if not isinstance(items, list) or not items:
        raise UserError(f'{path} is not a JSON list of {{"disease_class": <number>, "image_id": "<file>"}}')
    for number, item in enumerate(items, 1):
        source = f"{path.name} item {number}"
        label, name = (item.get("disease_class"), item.get("image_id")) if isinstance(item, dict) else (None, None)
        if type(label) is not int or not isinstance(name, str) or not name.strip():
            raise UserError(f'{source} is not {{"disease_class": <number>, "image_id": "<file>"}} but {json.dumps(item)[:120]}')
        yield source, name, label


def _from_lines(text: str, path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield (where, image, label) of each line that is not blank."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        found = re.fullmatch(r"(.+?)\s+(-?\d{1,9})", line.strip(), re.ASCII)
        if not found:
            raise UserError(f"{path.name} line {number} is not '<image> <label>' but '{line.strip()[:120]}'")
        yield f"{path.name} line {number}", found[1], int(found[2])
