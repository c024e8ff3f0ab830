"""The data sets by name: one place that turns a run's parameters into a data set."""

from __future__ import annotations

from core.data import cifar100, digits, folders
from core.data.images import DiscoveryData
from core.errors import UserError, nearest

DATASETS = ("digits", "cifar100", "folder")


def load(dataset: str, data_root: str, superclass_name: str, novel_classes: str, download: bool) -> DiscoveryData:
    """Return the data set called `dataset`.

    digits: bundled; `novel_classes` ('' = 7,8,9). cifar100: `superclass_name` in `data_root`, or from the publisher where
    `download`. folder: the image folder `data_root` with its `novel_classes`. Parameters of other data sets are ignored.
    """
    if dataset == "digits":
        return digits.load(novel_classes)
    if dataset == "cifar100":
        return cifar100.load_superclass(data_root, superclass_name, download)
    if dataset == "folder":
        return folders.load(data_root, novel_classes)
    raise UserError(f"dataset: there is no data set '{dataset}'{nearest(dataset, DATASETS)} (choose from: {', '.join(DATASETS)})")
