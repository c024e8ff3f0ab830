"""Any folder of images, `root/{train,test}/<class>/*`: how users bring their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.data import class_folders
from core.data.class_folders import ClassFolder
from core.data.images import DiscoveryData, FileImages, ImageSet, Skipped, empty_set, examined, say_unreadable
from core.data.novel import parse_known_classes
from core.errors import UserError, nearest
from core.places import expanded

_LAYOUT = "expected {root}/train/<class>/*.jpg (and, if there is one, {root}/test/<class>/*.jpg)"


def load(root: str | Path, novel_classes: str = "", bad_images: str = "auto", follow_links: bool = False) -> DiscoveryData:
    """Return the data set in `root`.

    Classes are the folders of train, sorted by name; test is optional. Ids are '<part>/<class>/<file>'. What is left out is
    what `class_folders.read` leaves out, and said.

    Args:
        novel_classes: a comma separated list of class folders ('' = all are known).
        bad_images: `skip` leaves unreadable files out, `refuse` and `auto` raise UnreadableImages.
        follow_links: symbolic links may lead out of `root`.

    Raises:
        UserError: a missing or empty part or class, a test class that train lacks, a link that leads out of `root`, a damaged image, a
            class of which no image can be read.
    """
    root = _folder(root).resolve()
    train, test = (class_folders.scan(root / part, root, follow_links) if (root / part).is_dir() else {} for part in ("train", "test"))
    if not train:
        raise UserError(f"no class folder in {root / 'train'}; {_LAYOUT.format(root=root)}")
    for part, classes in (("train", train), ("test", test)):
        if classes:
            class_folders.say_left_out(root / part, classes, f"{root.name}/{part}")
    names = tuple(sorted(train))
    known = parse_known_classes(novel_classes, names)
    for name in sorted(test.keys() - train.keys()):
        raise UserError(f"{root / 'test' / name}: class '{name}' has no folder in train{nearest(name, names)} (rename or remove it)")
    for name in names:
        if not train[name].files:
            raise UserError(f"{root / 'train' / name} holds no image ({class_folders.USUAL}): add some or remove the folder")
    digests, skipped = _readable([*_files(train), *_files(test)]) if bad_images == "skip" else (None, ())
    for name in names:
        if digests is not None and not any(path in digests for path in train[name].files):
            raise UserError(f"no image of the class folder {root / 'train' / name} can be read; mend them or remove the folder")
    images, for_test = (_image_set(root, classes, names, digests) for classes in (train, test))
    say_unreadable(skipped, root.name)
    return DiscoveryData(f"folder/{root.name}", images, for_test, names, known, skipped=skipped)


def require(root: str | Path, novel_classes: str = "") -> None:
    """Raise UserError for a `root` that is no folder, has no class, or lacks a novel one; images are not looked at."""
    train = _folder(root) / "train"
    names = tuple(sorted(one.name for one in train.iterdir() if one.is_dir())) if train.is_dir() else ()
    if not names:
        raise UserError(f"no class folder in {train.resolve()}; {_LAYOUT.format(root=train.resolve().parent)}")
    parse_known_classes(novel_classes, names)


def _folder(root: str | Path) -> Path:
    found = expanded(root, "data_root")
    if not str(root) or not found.is_dir():
        raise UserError(f"data_root '{root}' is not a folder; {_LAYOUT.format(root=root or 'data_root')}")
    return found


def _files(classes: dict[str, ClassFolder]) -> list[Path]:
    return [path for name in sorted(classes) for path in classes[name].files]


def _readable(paths: list[Path]) -> tuple[dict[Path, str], tuple[Skipped, ...]]:
    """Return the sha256 of each file that is a readable image, and those that are none."""
    checked = list(zip(paths, examined(paths), strict=True))
    skipped = tuple(Skipped(str(path), reason) for path, (_, reason) in checked if reason)
    return {path: digest for path, (digest, reason) in checked if not reason}, skipped


def _image_set(root: Path, classes: dict[str, ClassFolder], names: tuple[str, ...], digests: dict[Path, str] | None) -> ImageSet:
    """Return the images of a part in class order, then file order.

    digests: of the files that are to be taken; None = of all, which are examined now.
    """
    found = [(path, label) for label, name in enumerate(names) if name in classes for path in classes[name].files]
    items = [(path, label) for path, label in found if digests is None or path in digests]
    if not items:
        return empty_set()
    ids = tuple(class_folders.below(path, root) for path, _ in items)
    source = FileImages([path for path, _ in items], None if digests is None else [digests[path] for path, _ in items])
    return ImageSet(ids, np.array([label for _, label in items], np.int64), source)
