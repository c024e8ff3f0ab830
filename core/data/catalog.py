"""The data sets by name: one place that turns a run's parameters into a data set."""

from __future__ import annotations

from typing import Any

from core.data import cifar100, digits, folders, heap, image_table, superclasses
from core.data.images import DiscoveryData
from core.errors import UserError, nearest, shown
from core.places import expanded

DATASETS = ("digits", "cifar100", "folder")
_LAYOUTS = (
    "expected <data_root>/train/<class>/*.jpg (a benchmark), <data_root>/unlabelled/** with, where there are any, "
    "<data_root>/labelled/<class>/** (a heap), <data_root>/cifar-100-binary.tar.gz, or images=<file.csv>"
)


def recognised(data_root: str) -> str:
    """Return which data set lies in a folder: 'cifar100' or 'folder'; UserError, naming the layouts, where it is neither."""
    root = expanded(data_root, "data_root")
    if not root.is_dir():
        raise UserError(f"data_root '{shown(data_root)}' is not a folder; {_LAYOUTS}")
    if any(root.glob("cifar-100-binary*")) or (root / "train.bin").is_file():
        return "cifar100"
    if (root / "train").is_dir() or heap.is_heap(root):
        return "folder"
    misnamed = heap.misspelt_part(root)
    hint = f"; is its folder '{misnamed[1]}' meant to be '{misnamed[0]}'?" if misnamed else ""
    raise UserError(f"data_root '{shown(data_root)}' holds no data set that is known{hint}; {_LAYOUTS}")


def require(config: Any) -> None:
    """Raise UserError where the data set of a (resolved) configuration does not lie where it says; no image is read.

    CIFAR-100 is unpacked, or fetched where that is allowed: what lacks a network says so before anything else is done.
    """
    if config.dataset == "cifar100":
        superclasses.find(config.superclass_name)
        cifar100.locate(config.data_root, config.download)
    elif config.dataset == "folder" and not config.images:
        root = expanded(config.data_root, "data_root")
        if not heap.is_heap(root):
            folders.require(config.data_root, config.novel_classes)


def labels_are_given(config: Any) -> bool:
    """Say whether the user has said who is labelled, as on a heap or in a table: a benchmark draws it."""
    return bool(getattr(config, "images", "")) or heap.is_heap(expanded(config.data_root, "data_root"))


def load(
    dataset: str,
    data_root: str,
    superclass_name: str,
    novel_classes: str,
    download: bool,
    images: str = "",
    bad_images: str = "auto",
    follow_links: bool = False,
) -> DiscoveryData:
    """Return the data set called `dataset`.

    digits: bundled; `novel_classes` ('' = 7,8,9). cifar100: `superclass_name` in `data_root`, or from the publisher where
    `download`. folder: the image folder `data_root` with its `novel_classes`, a heap in it, or the file `images`. Parameters of other
    data sets are ignored. bad_images: refuse or skip unreadable ones; auto = skip on a heap. follow_links: out of `data_root` too.
    """
    if images and dataset != "folder":
        raise UserError(f"images = '{images}' lists images of your own, but dataset = {dataset}; leave one of them out")
    if dataset == "digits":
        return digits.load(novel_classes)
    if dataset == "cifar100":
        return cifar100.load_superclass(data_root, superclass_name, download)
    if dataset == "folder" and images:
        return image_table.load(images, data_root, novel_classes, bad_images, follow_links)
    if dataset == "folder" and heap.is_heap(expanded(data_root, "data_root")):
        return heap.load(data_root, novel_classes, bad_images, follow_links)
    if dataset == "folder":
        return folders.load(data_root, novel_classes, bad_images, follow_links)
    raise UserError(f"dataset: there is no data set '{dataset}'{nearest(dataset, DATASETS)} (choose from: {', '.join(DATASETS)})")
