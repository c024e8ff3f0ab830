"""Names and values as every store takes them: the same cuts everywhere, so that no server refuses what a file took."""

from __future__ import annotations

import posixpath
import re

from core import digest

KEY = 250  # characters of a metric's, parameter's or tag's name; PostgreSQL's column for a run's name has as many
TAG, PARAM = 5000, 6000  # characters of a value; a tag's column holds 5,000 in older stores
_REFUSED = re.compile(r"[^\w.\- /]")


def key(name: str) -> str:
    """Return the name of a metric, parameter or tag in the characters that MLflow takes.

    Class names may hold any others, which become underscores.

    A name that this changes in more than length keeps a few characters of its digest, so that two names stay two.
    """
    plain = _REFUSED.sub("_", name)
    parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
    plain = posixpath.normpath("/".join(parts)) if parts else "unnamed"
    if plain == name and len(name) <= KEY:
        return name
    mark = digest.of_bytes(name.encode(errors="surrogateescape"))[:6]
    return f"{plain[: KEY - 7]}-{mark}"


def cut(text: object, length: int) -> str:
    """Return a text of at most `length` characters, of which the last says that something is missing."""
    words = str(text).replace("\x00", "").encode(errors="replace").decode()
    return words if len(words) <= length else f"{words[: length - 1]}…"
