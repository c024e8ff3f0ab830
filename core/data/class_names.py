"""Names of classes as people and file systems write them: composed or decomposed letters, blanks around and between, commas inside."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from core.errors import UserError, nearest

# What a missing value becomes when a table is written as text: by pandas (its default markers), numpy and Python.
_PANDAS = "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null"
MISSING = frozenset(("", "NaT", *_PANDAS.split("|")))


# Zero-width spaces and joiners, byte order marks, soft hyphens and marks of direction: at the ends of a name they say nothing. Inside they
# may: of joined emoji, of Persian words. Tags (U+E0000 ff.) are letters of flags.
_UNSEEN = " \u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"


def plain(name: str) -> str:
    """Return a class name in one spelling: letters composed (NFC), one blank for each run of them inside, no blanks nor what has no width
    around it.

    A folder that was packed on another system, or a cell of a CSV, names the same class in another spelling. All names go through here:
    what folders, tables, options and people call a class is compared in this spelling.
    """
    return " ".join(unicodedata.normalize("NFC", name).split()).strip(_UNSEEN)


def is_text(name: str) -> bool:
    """Say whether a name holds text alone: no control characters, no half of a pair, which no table and no page could show."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def listed(text: str, class_names: Sequence[str], option: str) -> set[str]:
    """Return the class names in a comma-separated list ('rust, miner'; '' = none); a name may itself hold commas.

    Of names that could be meant, the longest is. Raises UserError for a name that is no class, with the nearest one.
    """
    by_name = {plain(name): name for name in class_names}
    pieces, found, at = text.split(","), set(), 0
    while at < len(pieces):
        ends = (end for end in range(len(pieces), at, -1) if plain(",".join(pieces[at:end])) in by_name)
        end = next(ends, at + 1)
        name = plain(",".join(pieces[at:end]))
        if name in by_name:
            found.add(by_name[name])
        elif name:
            shown = ", ".join(class_names[:20]) + (", ..." if len(class_names) > 20 else "")
            raise UserError(f"{option}: there is no class '{name}'{nearest(name, class_names)} (the classes are: {shown})")
        at = end
    return found
