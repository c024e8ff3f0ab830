"""Any folder of images, `root/{train,test}/<class>/*`: how users bring their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.data import class_folders
from core.data.class_folders import ClassFolder
from core.data.images import DiscoveryData, FileImages, ImageSet, empty_set
from core.data.novel import parse_known_classes
from core.errors import UserError, nearest

_LAYOUT = "expected {root}/train/<class>/*.jpg (and, if there is one, {root}/test/<class>/*.jpg)"


def load(root: str | Path, novel_classes: str = "") -> DiscoveryData:
    """Return the data set in `root`; `novel_classes` is a comma separated list of class folders ('' = all are known).

    Classes are the folders of train, sorted by name; test is optional. Ids are '<part>/<class>/<file>'. What is left out is
    what `class_folders.read` leaves out, and said. Raises UserError for a missing or empty part or class, a test
    class that train lacks, a link that leads out of `root`, a damaged image.
    """
    given, root = root, Path(root).expanduser()
    if not str(given) or not root.is_dir():
        raise UserError(f"data_root '{given}' is not a folder; {_LAYOUT.format(root=given or 'data_root')}")
    root = root.resolve()
    train, test = (class_folders.scan(root / part, root) if (root / part).is_dir() else {} for part in ("train", "test"))
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
    return DiscoveryData(f"folder/{root.name}", _image_set(root, train, names), _image_set(root, test, names), names, known)


def _image_set(root: Path, classes: dict[str, ClassFolder], names: tuple[str, ...]) -> ImageSet:
    """Return the images of a part in class order, then file order."""
    items = [(path, label) for label, name in enumerate(names) if name in classes for path in classes[name].files]
    if not items:
        return empty_set()
    ids = tuple(class_folders.below(path, root) for path, _ in items)
    return ImageSet(ids, np.array([label for _, label in items], np.int64), FileImages([path for path, _ in items]))
