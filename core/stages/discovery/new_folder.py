"""A folder that a user asks for by name: refused before any work where it cannot be made, then there as a whole, over nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import UserError, shown
from core.places import unwritable

_LETTERS = 80  # of a path that an error shows


def named(given: str, option: str) -> Path:
    """Return the absolute path that an option names; UserError where no system could have it."""
    try:
        place = Path(given).expanduser().absolute()
        os.lstat(place)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, the home of nobody
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{option} = '{shown(given, _LETTERS)}' cannot be a folder ({reason}): give another one") from None
    return place


def asked(given: str, option: str = "output") -> Path | None:
    """Return the folder that is to be made; None where none is asked for.

    UserError for what is there already (an empty folder may be), a link, a place that takes no new folder.
    """
    if not given:
        return None
    place = named(given, option)
    if place.is_symlink():
        raise UserError(f"{option} = '{given}' is a link: give a new folder, or the place where it leads")
    if os.path.ismount(place):
        raise UserError(f"{option} = '{given}' is where a disk begins: give a new folder in it")
    if os.path.lexists(place) and not _empty(place):
        raise UserError(f"{option} = '{given}' is there already: give a new folder, or remove it")
    if reason := unwritable(place.parent):
        raise UserError(f"{option} = '{given}' cannot be made ({reason}): give a folder that can")
    return place


def _empty(place: Path) -> bool:
    try:
        return not any(place.iterdir())
    except OSError:  # a file, or a folder of somebody else
        return False


@contextmanager
def appearing(place: Path) -> Iterator[Path]:
    """Yield an empty folder beside `place` that is hidden, and takes its place once it is filled; after an error nothing is left."""
    place.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{place.name[:40]}-", dir=place.parent))
    try:
        yield made
        made.chmod(0o777 & ~_umask())
        try:
            made.replace(place)
        except OSError as error:
            raise UserError(f"{place} was made by somebody else meanwhile ({error.strerror}): give a new folder") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
