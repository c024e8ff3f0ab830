"""Class folders, `<folder>/<class>/*`: the simplest way to say which class an image has."""

from __future__ import annotations

import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.data.class_names import plain
from core.data.metadata import Entry
from core.errors import UserError
from core.places import expanded

# Everything that Pillow decodes by itself and that people keep photographs or scans in; compared in lower case.
EXTENSIONS: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".jfif", ".jpe", ".tif", ".tiff", ".gif", ".avif", ".apng", ".dib")
EXTENSIONS += (".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga")
USUAL = ", ".join(EXTENSIONS[:5]) + ", ..."
PARTS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))
NOISE = frozenset(("thumbs.db", "desktop.ini", "__macosx"))  # what systems leave behind beside hidden files
SPECIAL = "pipes, sockets and devices"  # to read one could take for ever
SHOWN = 5  # classes that a line about files that were left out names


@dataclass(frozen=True)
class ClassFolder:
    """What lies in a class's folder.

    files: its images, those in folders below it too, sorted. nested: how many of them lie in such folders. ignored: how many
    files there are that are no images, by extension ('' = none; 'links' = folders that are only linked to; SPECIAL).
    """

    files: tuple[Path, ...]
    nested: int = 0
    ignored: Mapping[str, int] = field(default_factory=dict)


def read(folder: str | Path, option: str, may_be_empty: bool = False) -> list[Entry]:
    """Return the images of every class folder, sorted by class, then by file; the folder's name is label and class.

    `option` is the parameter that named the folder, for messages. Images in folders inside class folders belong to the class
    (Tiny ImageNet: <class>/images/*); other files are left out and counted in one line on stderr, hidden ones are not looked at.
    Raises UserError for a missing folder, one without class folders, a class without images (unless that `may_be_empty`), two
    folders of one class, a link that leads out of the folder, a name that is not UTF-8.
    """
    root = expanded(folder, option)
    if not root.is_dir():
        raise UserError(f"{option} '{folder}' is not a folder; expected {folder}/<class>/*.jpg")
    root = root.resolve()
    classes = scan(root, root)
    if not classes:
        raise UserError(f"no class folder in {option} '{folder}'; expected {folder}/<class>/*.jpg")
    say_left_out(root, classes, option)
    entries = []
    for name, found in classes.items():
        if not found.files and not may_be_empty:
            raise UserError(f"{root / name} holds no image ({USUAL}): add some or remove the folder")
        entries += [Entry(path, below(path, root), name, f"{option} {below(path, root)}") for path in found.files]
    if not entries:
        raise UserError(f"no image ({USUAL}) in any class folder of {option} '{folder}'; expected {folder}/<class>/*.jpg")
    return entries


def scan(folder: Path, root: Path, follow_links: bool | None = None) -> dict[str, ClassFolder]:
    """Return what each class folder in `folder` holds, sorted by class; links may not lead out of `root` unless they are followed."""
    check(folder, root, follow_links)
    found: dict[str, ClassFolder] = {}
    for path in _listed(folder):
        if _is_noise(path) or not path.is_dir():
            continue
        check(path, root, follow_links)
        name = plain(path.name)
        if name in found or not name:
            raise UserError(
                f"{path}: class '{name}' has another folder beside it, or no name: "
                "blanks, composed letters and what has no width do not tell apart"
            )
        found[name] = below_folder(path, root, follow_links)
    if found and {name.lower() for name in found} <= PARTS and not any(_has_image(folder / name) for name in found):
        shown = ", ".join(found)
        raise UserError(f"the folders in {folder} are parts of a data set ({shown}), not classes: give the folder above, or one of them")
    return dict(sorted(found.items()))


def say_left_out(folder: Path, classes: Mapping[str, ClassFolder], where: str) -> None:
    """Print one line on stderr about what in `folder` is not where a class's images usually are, if there is anything."""
    if line := left_out(folder, classes):
        print(f"taxon: {where}: {line}", file=sys.stderr)


def left_out(folder: Path, classes: Mapping[str, ClassFolder]) -> str:
    """Return what `say_left_out` says: 'a: 3 files ignored (.txt 2, .xml 1), 4 images in folders inside it'; '' = nothing."""
    loose = beside(folder, ())[0]
    said = [f"{loose} image{'s' if loose > 1 else ''} in no class folder ignored"] if loose else []
    for name, found in classes.items():
        words = []
        if found.ignored:
            kinds = ", ".join(f"{kind or 'no extension'} {count}" for kind, count in sorted(found.ignored.items()))
            count = sum(found.ignored.values())
            words.append(f"{count} file{'s' if count > 1 else ''} ignored ({kinds})")
        if found.nested:
            words.append(f"{found.nested} image{'s' if found.nested > 1 else ''} in folders inside it")
        if words:
            said.append(f"{name}: {', '.join(words)}")
    more = f"; and so on in {len(said) - SHOWN} more classes" if len(said) > SHOWN else ""
    return "; ".join(said[:SHOWN]) + more


def beside(folder: Path, known: Sequence[str]) -> tuple[int, list[str]]:
    """Return how many images lie in a folder itself, and the names of its folders, sorted, but for those that `known` names lead to."""
    images, folders = 0, []
    for path in _listed(folder):
        if _is_noise(path):
            continue
        if not path.is_dir():
            images += path.suffix.lower() in EXTENSIONS
        elif not any((folder / name).is_dir() and path.samefile(folder / name) for name in known):  # `Test` may be `test`
            folders.append(path.name)
    return images, folders


def below(path: Path, root: Path) -> str:
    """Return a file's path below `root`, separated by '/'."""
    return path.relative_to(root).as_posix()


def check(path: Path, root: Path, follow_links: bool | None = None) -> None:
    """Raise UserError for a link that leads out of `root`, unless it may, and for a name that no report could hold."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise UserError(f"the file name {path.name!r} in {path.parent} is not valid UTF-8: rename it") from None
    if not path.is_symlink():
        return
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # the latter is what Python raises for links in a circle
        raise UserError(f"{path} is a link that leads to itself: remove it") from None
    if not follow_links and not real.is_relative_to(root):
        allow = "" if follow_links is None else ", or give follow_links=true"
        raise UserError(f"{path} is a link that leads out of {root}: copy the files there instead{allow}")


def below_folder(folder: Path, root: Path, follow_links: bool | None = None) -> ClassFolder:
    """Return the images of a folder and of those below it, in order of their paths; see `scan` for links."""
    check(folder, root, follow_links)
    files: list[Path] = []
    ignored = Counter[str]()
    for path in walk(folder, root, follow_links, {folder.resolve()}):
        if path.is_dir():
            ignored["links"] += 1
        elif path.suffix.lower() in EXTENSIONS:
            check(path, root, follow_links)
            if is_special(path):
                ignored[SPECIAL] += 1
            else:
                files.append(path)
        else:
            ignored[path.suffix.lower()] += 1
    files = _each_once(files) if follow_links else files
    nested = sum(path.parent != folder for path in files)
    return ClassFolder(tuple(sorted(files)), nested, dict(ignored))


def is_special(path: Path) -> bool:
    """Say whether there is something, where links lead, that is neither a file nor a folder."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _each_once(files: list[Path]) -> list[Path]:
    """Return the files without links to others of them, and of links to one file the first."""
    seen = {path.resolve() for path in files if not path.is_symlink()}
    kept = []
    for path in sorted(files):
        real = path.resolve() if path.is_symlink() else None
        if real is None or real not in seen:
            kept.append(path)
        seen |= {real} if real is not None else set()
    return kept


def walk(folder: Path, root: Path, follow_links: bool | None, seen: set[Path]) -> Iterator[Path]:
    """Yield the files below a folder, and folders that are links: to follow those could count an image twice, or never end.

    Where links are followed, each folder is walked once, by whatever way it is reached first.
    """
    for path in _listed(folder):
        if _is_noise(path):
            continue
        if not path.is_dir():
            yield path
        elif path.is_symlink() and not follow_links:
            check(path, root, follow_links)
            yield path
        elif (real := path.resolve()) not in seen:
            seen.add(real)
            yield from walk(path, root, follow_links, seen)


def _has_image(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in EXTENSIONS and not path.is_dir() for path in _listed(folder))


def _listed(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder, by name; UserError for a folder that may not be read or entered."""
    try:
        names = sorted(os.listdir(folder))  # names: of a folder of a million files, paths would need half a gigabyte
        if names:
            os.lstat(folder / names[0])
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): allow it to be read and entered, or move it away") from None
    return (folder / name for name in names)


def _is_noise(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in NOISE
