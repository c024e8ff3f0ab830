"""A user's folder that prepared files are put into: nothing that others wrote or changed is ever replaced."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from core.data.longtail import PARTS
from core.errors import UserError
from core.places import write_atomically

ENTRY_POINT = "prepare_longtail"
REPORT = "report.json"
WEIGHTS = "class_weights.csv"


def metadata_name(part: str) -> str:
    """Return the name of a part's metadata CSV."""
    return f"{part}_metadata.csv"


NAMES = (*(metadata_name(part) for part in PARTS), WEIGHTS)


def require_usable(output_dir: str) -> None:
    """Raise UserError when output_dir ('' = none) cannot be written, or holds files of these names that are not this stage's own."""
    folder = Path(output_dir).expanduser()
    if not output_dir:
        return
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output_dir '{output_dir}' is not a folder; give one, or a new name")
    standing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not standing.is_dir() or not os.access(standing, os.W_OK | os.X_OK):
        raise UserError(f"output_dir '{output_dir}' cannot be written: {standing} takes no files from you; give another")
    vouched = _vouched(folder)
    for name in (*NAMES, REPORT):
        path = folder / name
        is_own = bool(vouched) if name == REPORT else path.is_file() and _sha256(path) in vouched.get(name, ())
        if path.is_symlink() or (path.exists() and not is_own):
            raise UserError(f"{path} was not written by {ENTRY_POINT}, or was changed since: move it away or give another output_dir")


def publish(output_dir: str, report: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Write `files` and the report, each at once or not at all; remove files of an earlier run that had more parts.

    report['files'] holds the sha256 of each. It goes first and vouches for old and new content, so that a run that was
    stopped in between can be repeated.
    """
    folder = Path(output_dir).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir '{folder}' cannot be made: {error.strerror or error}; give another") from None
    replaced = {name: _sha256(folder / name) for name in NAMES if (folder / name).is_file()}
    write_atomically(folder / REPORT, _as_bytes({**report, "replaced": replaced}), "the report")
    for name, content in files.items():
        write_atomically(folder / name, content, name)
    for name in replaced.keys() - files.keys():
        (folder / name).unlink()
    write_atomically(folder / REPORT, _as_bytes(report), "the report")


def _vouched(folder: Path) -> dict[str, tuple[str, str]]:
    """Return, by file name, the sha256 that a report of this stage in `folder` vouches for; {} without such a report."""
    try:
        report = json.loads((folder / REPORT).read_text())
        if report["made_by"] != ENTRY_POINT:
            return {}
        return {name: (report["files"].get(name, ""), report.get("replaced", {}).get(name, "")) for name in NAMES}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _as_bytes(report: Mapping[str, Any]) -> bytes:
    return (json.dumps(report, indent=1, sort_keys=True) + "\n").encode()
