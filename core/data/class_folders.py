"""Class folders, `<folder>/<class>/*`: the simplest way to say which class an image has."""

from __future__ import annotations

from pathlib import Path

from core.data.metadata import Entry
from core.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def read(folder: str | Path, option: str, may_be_empty: bool = False) -> list[Entry]:
    """Return the images of every class folder, sorted by class, then by file; the folder's name is label and class.

    `option` is the parameter that named the folder, for messages. Hidden files, other file types and folders inside class
    folders are ignored. Raises UserError for a missing folder, one without class folders, a class without images (unless
    that `may_be_empty`), a link that leads out of the folder, a name that is not UTF-8.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"{option} '{folder}' is not a folder; expected {folder}/<class>/*.jpg")
    root = root.resolve()
    classes = scan(root, root)
    if not classes:
        raise UserError(f"no class folder in {option} '{folder}'; expected {folder}/<class>/*.jpg")
    entries = []
    for name, files in classes.items():
        if not files and not may_be_empty:
            raise UserError(f"{root / name} holds no image ({', '.join(EXTENSIONS)}): add some or remove the folder")
        entries += [Entry(path, f"{name}/{path.name}", name, f"{option} {name}/{path.name}") for path in files]
    if not entries:
        raise UserError(f"no image ({', '.join(EXTENSIONS)}) in any class folder of {option} '{folder}'; expected {folder}/<class>/*.jpg")
    return entries


def scan(folder: Path, root: Path) -> dict[str, list[Path]]:
    """Return the sorted image files of each class folder in `folder`, sorted by class; links may not lead out of `root`."""
    check(folder, root)
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        check(path, root)
        found[path.name] = sorted(file for file in path.iterdir() if _is_image(file))
        for file in found[path.name]:
            check(file, root)
    return found


def _is_image(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in EXTENSIONS and not path.is_dir()


def check(path: Path, root: Path) -> None:
    """Raise UserError for a link that leads out of `root` and for a name that no report could hold."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise UserError(f"the file name {path.name!r} in {path.parent} is not valid UTF-8: rename it") from None
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        raise UserError(f"{path} is a link that leads out of {root}: copy the files there instead")
