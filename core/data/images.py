"""Where pixels come from, and the data set every stage is given."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from core import digest
from core.data.decoding import read_rgb
from core.errors import UserError
from core.progress import bar

DECODE_THREADS = 4
NOBODY_SAID = -1  # the label of an image whose class is not known
SHOWN = 5  # unreadable files that an error names; more are listed in a file


class ImageSource(Protocol):
    """A sequence of RGB images that is read by index."""

    def __len__(self) -> int:
        """Return the number of images."""

    def load(self, indices: np.ndarray) -> list[np.ndarray] | np.ndarray:
        """Return the images at `indices`: uint8 HxWx3 each, as one (B,H,W,3) array where all have one size."""

    @property
    def digest(self) -> str:
        """Return the sha256 of the content."""


class ArrayImages:
    """Images of one size held in memory: `pixels` is (N,H,W,3) uint8."""

    def __init__(self, pixels: np.ndarray):
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
            raise ValueError(f"pixels must be uint8 (N,H,W,3), not {pixels.dtype} {pixels.shape}")
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def load(self, indices: np.ndarray) -> np.ndarray:
        """Return (B,H,W,3) uint8."""
        return self.pixels[indices]

    @cached_property
    def digest(self) -> str:
        """The sha256 of the pixels."""
        return digest.of_array(self.pixels)


class UnreadableImages(UserError):
    """Files that are no readable images, in one line. unreadable: (path, reason) of every one, in the order they were given."""

    def __init__(self, unreadable: Sequence[tuple[Path, str]], checked: int):
        self.unreadable = tuple(unreadable)
        if len(self.unreadable) == 1:
            path, reason = self.unreadable[0]
            super().__init__(f"{path}: not a readable image ({reason}); mend or remove the file")
            return
        shown = ", ".join(f"{path} ({reason})" for path, reason in self.unreadable[:SHOWN])
        rest = len(self.unreadable) - SHOWN
        everyone = listed((f"{path}\t{reason}" for path, reason in self.unreadable), "unreadable") if rest > 0 else ""
        more = f" and {rest} more{everyone}" if rest > 0 else ""
        super().__init__(f"{len(self.unreadable)} of {checked} files are not readable images: {shown}{more}; mend or remove them")


class FileImages:
    """Image files, decoded when asked for (RGB, turned upright by their EXIF orientation).

    Every file is read and decoded once on construction, at low resolution where the format allows it, so that damaged
    files are reported (UnreadableImages naming them) before any expensive work and not in the middle of training.
    file_digests: the sha256 of each file; given to the constructor, they say that `verified` has seen these files already.
    """

    def __init__(self, paths: Sequence[Path], file_digests: Sequence[str] | None = None):
        self.paths = tuple(paths)
        self.file_digests = verified(self.paths) if file_digests is None else tuple(file_digests)
        if len(self.file_digests) != len(self.paths):
            raise ValueError(f"{len(self.paths)} files and {len(self.file_digests)} digests do not match")
        self.digest = digest.of_json(list(self.file_digests))

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, indices: np.ndarray) -> list[np.ndarray]:
        """Return uint8 HxWx3 arrays, each of its own size."""
        with ThreadPoolExecutor(DECODE_THREADS) as pool:
            return list(pool.map(_decode, [self.paths[i] for i in indices]))


def small(source: ImageSource, indices: np.ndarray, side: int) -> list[np.ndarray] | np.ndarray:
    """Return what `source.load` does, for eyes or thumbnails: JPEG files are decoded at the smallest scale not below `side` pixels."""
    if not isinstance(source, FileImages):
        return source.load(indices)
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        return list(pool.map(lambda i: _decode(source.paths[i], (side, side)), indices))


def verified(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return the sha256 of each file after decoding it; UnreadableImages with all files that are no readable images."""
    checked = examined(paths)
    unreadable = [(path, reason) for path, (_, reason) in zip(paths, checked, strict=True) if reason]
    if unreadable:
        raise UnreadableImages(unreadable, len(paths))
    return tuple(file_digest for file_digest, _ in checked)


def examined(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """Return for each file its sha256 after decoding it, and why it is no readable image ('' = it is one)."""
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        return list(bar(pool.map(_verify, paths), "checking images", total=len(paths)))


def _verify(path: Path) -> tuple[str, str]:
    """Return the sha256 of the file and, when it is no readable image, the reason ('' = it is one)."""
    try:
        content = path.read_bytes()
        if not content:
            return "", "empty file"
        read_rgb(content, draft=(64, 64))  # JPEG: still reads the whole stream, so truncation shows, at a fraction of the cost
    except Exception as error:  # Pillow raises almost anything on damaged files
        return "", one_line(error)
    return digest.of_bytes(content), ""


def listed(lines: Iterable[str], what: str) -> str:
    """Write the lines into a new text file, named after `what` they are, and return ' (all are listed in <it>)'; '' where that fails."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix=f"taxon-{what}-", suffix=".txt", delete=False, encoding="utf-8", errors="surrogateescape"
        ) as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError:
        return ""
    return f" (all are listed in {file.name})"


def _decode(path: Path, draft: tuple[int, int] | None = None) -> np.ndarray:
    """Return the upright image as (H,W,3) uint8, `draft` as `read_rgb` takes it.

    UserError when the file has become unreadable since it was checked.
    """
    try:
        return np.asarray(read_rgb(path, draft))
    except Exception as error:  # as above
        raise UserError(f"{path}: not a readable image ({one_line(error)}); it was readable when the run started") from None


def one_line(error: Exception) -> str:
    """Return the error's text without line breaks (PIL repeats a BytesIO address, which says nothing)."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "unknown format" if "cannot identify image file" in text else text


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their ids and labels.

    ids: one a image, unique over train and test together ('train/00012', 'test/00012').
    labels: (N,) int64, index into the data set's class_names; -1 where nobody knows the class.
    source: the pixels, in the same order.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    source: ImageSource

    def __post_init__(self):
        if not len(self.ids) == len(self.labels) == len(self.source):
            raise ValueError(f"{len(self.ids)} ids, {len(self.labels)} labels and {len(self.source)} images do not match")
        if self.labels.dtype != np.int64:
            raise ValueError(f"labels must be int64, not {self.labels.dtype}")

    def __len__(self) -> int:
        return len(self.ids)


def subset(images: ImageSet, rows: np.ndarray) -> ImageSet:
    """Return the images at `rows` of those that lie in files; no file is read again."""
    files = cast(FileImages, images.source)
    source = FileImages([files.paths[i] for i in rows], [files.file_digests[i] for i in rows])
    return ImageSet(tuple(images.ids[i] for i in rows), images.labels[rows], source)


@dataclass(frozen=True)
class Skipped:
    """A file that was left out: its path as it was found, and why."""

    path: str
    reason: str


def say_unreadable(unreadable: Sequence[Skipped], where: str) -> None:
    """Print one line on stderr about files that are left out, if there are any."""
    if unreadable:
        first = unreadable[0]
        line = f"{len(unreadable)} unreadable images are left out (skipped.csv), such as {first.path} ({first.reason})"
        print(f"taxon: {where}: {line}", file=sys.stderr)


@dataclass(frozen=True, eq=False)
class DiscoveryData:
    """A data set for category discovery as it was read, with every label that is known: `core.data.problem.pose` takes the truth out.

    name: 'cifar100/trees', 'digits' or 'folder/<root name>'.
    train, test: the official parts; test may be empty where a folder has no test part.
    class_names: name of class index i. known_classes: the indices of classes that may be labelled; the rest is novel.
    given: (N,) bool, the training images whose label the user gave, on a heap; other labels there are truth, for reports only.
        None on a benchmark, where the split draws who is labelled.
    held_out: (N,) bool, given images that the user sets apart for model selection; None = they are drawn.
    twins: (N,) bool, unlabelled copies of labelled images, which take part in no training; None = there are none.
    groups: (N,) int64, number of the group of each training image, whose members are never split over parts; None = none are given.
    skipped: files that were left out.
    """

    name: str
    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    known_classes: frozenset[int]
    given: np.ndarray | None = None
    held_out: np.ndarray | None = None
    twins: np.ndarray | None = None
    groups: np.ndarray | None = None
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self):
        if len({*self.train.ids, *self.test.ids}) != len(self.train) + len(self.test):
            raise ValueError(f"{self.name}: image ids are not unique over train and test")
        if not self.known_classes <= set(range(len(self.class_names))):
            raise ValueError(f"{self.name}: known_classes name classes that do not exist")

    @property
    def novel_classes(self) -> frozenset[int]:
        """The class indices that are never labelled; may be empty."""
        return frozenset(range(len(self.class_names))) - self.known_classes

    @cached_property
    def digest(self) -> str:
        """The sha256 of pixels, labels, ids, class names and known classes of both parts."""
        parts = [[part.source.digest, digest.of_array(part.labels), list(part.ids)] for part in (self.train, self.test)]
        return digest.of_json([parts, list(self.class_names), sorted(self.known_classes)])

    @cached_property
    def images_digest(self) -> str:
        """The sha256 of pixels and ids: trainings with other labels or novel classes share it."""
        return digest_of_images(self.train, self.test)

    @property
    def known_names(self) -> list[str]:
        """The names of the classes that may be labelled."""
        return [self.class_names[c] for c in sorted(self.known_classes)]

    @property
    def novel_names(self) -> list[str]:
        """The sorted names of the novel classes."""
        return sorted(self.class_names[c] for c in self.novel_classes)


def digest_of_images(train: ImageSet, test: ImageSet) -> str:
    """Return the sha256 of pixels and ids of two parts, whatever is labelled."""
    return digest.of_json([[part.source.digest, list(part.ids)] for part in (train, test)])


def empty_set() -> ImageSet:
    """Return an image set without images (a data set without a test part)."""
    return ImageSet((), np.zeros(0, np.int64), ArrayImages(np.zeros((0, 1, 1, 3), np.uint8)))
