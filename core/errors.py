"""Errors that a user can cause and mend: one line, no traceback, exit code 2."""

from __future__ import annotations

import contextlib
import difflib
import errno
import unicodedata
from collections.abc import Iterable, Iterator

_UNSHOWN = ("Cc", "Cs", "Zl", "Zp")  # categories of Unicode: controls, surrogates, separators of lines and paragraphs


class UserError(Exception):
    """What is wrong, where, and what to do, in one line.

    Raised before any expensive work starts. Entry points print the line, mark the run FAILED with it and exit with code 2. Names that
    it quotes may hold anything: line breaks, control characters and halves of characters are shown escaped.
    """

    def __init__(self, line: str):
        super().__init__("".join(map(_shown, line)))


def _shown(character: str) -> str:
    return ascii(character)[1:-1] if unicodedata.category(character) in _UNSHOWN else character


class Gone(UserError):
    """Somebody deleted what is worked on: a run, its experiment, a study. Waiting does not help; the line says how to go on.

    Attributes:
        restorable: it can be brought back, so that what is meant for it is kept.
    """

    def __init__(self, line: str, restorable: bool = True):
        self.restorable = restorable
        super().__init__(line)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the closest of `known`, or an empty string when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def misspelt(name: str, known: Iterable[str]) -> str:
    """Return which of `known` a name stands for in another spelling ('Labeled' for 'labelled'), '' for none: a letter or two differ."""
    return next(iter(difflib.get_close_matches(name.casefold(), list(known), n=1, cutoff=0.76)), "")


def shown(value: str, letters: int = 200) -> str:
    """Return a value as an error line shows it: what no line can hold is escaped, what is long is cut."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in value)
    return text if len(text) <= letters else f"{text[: letters - 3]}..."


@contextlib.contextmanager
def full_disk_named() -> Iterator[None]:
    """Turn whatever a full disk (or quota) raises inside into a UserError; other errors pass as they are."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not full and "No space left on device" not in said and "database or disk is full" not in said:
            raise
        raise UserError(f"a disk is full: {said[:300]}; free some space there and run the same command again to continue") from None
