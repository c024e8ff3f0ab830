"""Where this process may write and who started it, settled before anything heavy: home, temporary folder, cache, libraries' folders.

Containers (`docker run -u`) have homes that are missing or belong to others, clusters long temporary folders, shells variables that
are set but empty. What can do without gets a private temporary folder; what the user asked for by name is refused in one line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import stat
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

from core.errors import UserError, shown

# Set but empty means unset for these: MLflow, torch and Python take an empty text for an address, a number or a folder.
PREFIXES = ("MLFLOW_", "TAXON_", "HF_", "TORCH", "NUMBA_", "MPL", "AWS_", "XDG_")
NAMES = (
    "HOME",
    "TMPDIR",
    "TEMP",
    "TMP",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "OMP_NUM_THREADS",
)
USER_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
CACHE_PARTS = ("locks", "spool", "tmp", "work", "artifacts", "data")
# A socket's address holds 107 bytes on Linux; `/pymp-xxxxxxxx/listener-xxxxxxxx` and what torch makes need up to 40 of them.
LONGEST_TMPDIR = 64
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
# Folders that libraries write to unless told otherwise: the variable that tells them, and where they look below the home.
LIBRARIES = {
    "MPLCONFIGDIR": (".config/matplotlib", ".cache/matplotlib"),
    "HF_HOME": (".cache/huggingface",),
    "TORCH_HOME": (".cache/torch",),
}
COMPILED = Path(__file__).resolve().parent / "clustering" / "__pycache__"  # where numba keeps what it compiles


def settle() -> None:
    """Make the environment one that this process and its children can work in; raise UserError where only the user can."""
    unset_empty()
    try:
        os.getcwd()
    except OSError:
        raise UserError("the working folder does not exist any more; change to one that does") from None
    settle_tmpdir()
    settle_user()
    settle_cache()
    settle_libraries()


def say(line: str) -> None:
    """Tell the user what was found and what is done instead."""
    print(f"taxon: {line}", file=sys.stderr)


def unset_empty() -> None:
    """Remove variables that are set but empty."""
    for name, value in list(os.environ.items()):
        if not value.strip() and (name.startswith(PREFIXES) or name in NAMES):
            del os.environ[name]


def unwritable(folder: Path) -> str:
    """Return why no file can be made in `folder`, which is made when absent; '' = it can. A full disk is named where it is met."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return "" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or type(error).__name__


def expanded(path: str | Path, option: str) -> Path:
    """Return the path that an option gives, `~` expanded; nothing needs to be there.

    UserError, naming the option, for a user there is none of, a path that no system can have or that may not be looked at, and one
    below a folder whose name is not UTF-8: no table and no page could hold it.
    """
    reason = ""
    try:
        found = Path(path).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(os.path.join(found, "."))  # so that a folder may be entered as well
        str(found.resolve()).encode()
    except UnicodeEncodeError:
        reason = f"a name in {shown(str(found.resolve()))} is not valid UTF-8; rename that file or folder"
    except OSError as error:
        reason = f"{error.strerror}; give another path"
    except ValueError as error:  # a null byte
        reason = f"{error}; give another path"
    except RuntimeError:  # what `expanduser` raises
        reason = "there is no such user; give the whole path"
    if reason:
        raise UserError(f"{option} = '{shown(str(path))}' cannot be read: {reason}")
    return found


def made(folder: Path) -> Path:
    """Make a folder of the cache and return it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the folder '{folder}' cannot be made ({error.strerror}); set TAXON_CACHE to a folder that can be written"
        ) from None
    return folder


def cache_home() -> Path:
    """Return the folder for what outlives a run but is no artifact: unpacked archives, work in progress, unsent metrics."""
    given = os.environ.get("TAXON_CACHE")
    return Path(given).expanduser() if given else home() / ".cache" / "taxon"


def home() -> Path:
    """Return the user's home, or a private temporary folder for a user who has none."""
    try:
        return Path.home()
    except RuntimeError:
        return private_folder()


def private_folder(root: str = "") -> Path:
    """Return this user's own folder among the temporary ones, made when absent; raise UserError where another holds its name."""
    folder = Path(root or tempfile.gettempdir()) / f"taxon-{os.geteuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise UserError(
            f"'{folder}' is not this user's own folder; remove it, or set TAXON_CACHE and TMPDIR to folders that can be written"
        )
    return folder


def settle_tmpdir() -> None:
    """Reach a long temporary folder by a short link: sockets are made there, and their addresses may have 107 bytes."""
    try:
        folder = tempfile.gettempdir()
    except OSError:
        raise UserError("no temporary folder can be written; set TMPDIR to one that can") from None
    if len(os.fsencode(folder)) <= LONGEST_TMPDIR:
        return
    link = _short_link(folder)
    if link is None:
        raise UserError(f"TMPDIR = '{folder}' is too long for a socket's address; set it to one of at most {LONGEST_TMPDIR} characters")
    os.environ["TMPDIR"] = link
    tempfile.tempdir = None  # asked again from here on


def _short_link(folder: str) -> str | None:
    """Return a short name of `folder` that stays the same for it, or None where none can be made."""
    for root in SHORT_FOLDERS:
        try:
            link = private_folder(root) / sha256(os.fsencode(folder)).hexdigest()[:12]
            with contextlib.suppress(FileExistsError):  # another process of this user made it
                link.symlink_to(folder)
            if os.readlink(link) == folder:
                return str(link)
        except (OSError, UserError):
            continue
    return None


def settle_user() -> None:
    """Give a user whom the system does not know (`docker run -u 1234`) a home and a name: MLflow does not start without."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("HOME", str(private_folder()))
        if not any(os.environ.get(name) for name in USER_NAMES):
            os.environ["USER"] = str(os.getuid())


def settle_cache() -> None:
    """Make sure that the cache can be written; where the default one cannot, a temporary folder takes its place, which is said."""
    given, folder = os.environ.get("TAXON_CACHE", ""), cache_home().absolute()
    reason = next((f"{path}: {why}" for path in _parts(folder) if (why := unwritable(path))), "")
    if reason and given:
        raise UserError(f"TAXON_CACHE = '{given}' cannot be used ({reason}); set it to a folder that can be written")
    if reason:
        spare = made(private_folder() / "cache")
        say(f"the cache cannot be used ({reason}); {spare} takes its place: set TAXON_CACHE to a folder that lasts")
        folder = spare
    if given or reason:
        os.environ["TAXON_CACHE"] = str(folder)


def _parts(folder: Path) -> list[Path]:
    """Return the cache's folder and those of its parts that exist: another user may have made them."""
    return [folder, *(folder / name for name in CACHE_PARTS if os.path.exists(folder / name))]


def settle_libraries() -> None:
    """Point libraries whose own folders cannot be written into the cache: numba raises, matplotlib builds its font list every time."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    if unwritable(Path(given) if given else COMPILED):
        os.environ["NUMBA_CACHE_DIR"] = str(made(cache_home() / "numba"))
    for variable, defaults in LIBRARIES.items():
        given = os.environ.get(variable)
        folders = [Path(given)] if given else [home() / name for name in defaults]
        # One that exists but cannot be written is read, as a shared store of weights may be.
        missing = [folder for folder in folders if variable == "MPLCONFIGDIR" or not os.path.exists(folder)]
        if any(unwritable(_nearest(folder)) for folder in missing):
            os.environ[variable] = str(cache_home() / variable.split("_")[0].lower())


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists: nothing is made for a library that may not be used."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))


def write_atomically(path: Path, data: bytes, what: str) -> None:
    """Write, sync, rename; on failure remove the temporary file and say what could not be written where."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{what} cannot be written to {path.parent}: {error.strerror or error}; free space there and run the command again"
        ) from None
