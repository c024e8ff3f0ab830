"""A heap: `root/unlabelled/**`, images whose classes nobody knows, beside `root/labelled/<class>/**`, a few folders of known ones.

Folders below `unlabelled` mean nothing: a camera's, a day's. `root/test/<class>/**` is for figures only. Without `labelled` everything
is to be discovered.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.data import class_folders
from core.data.class_names import MISSING, is_text
from core.data.images import (
    NOBODY_SAID,
    SHOWN,
    DiscoveryData,
    FileImages,
    ImageSet,
    Skipped,
    UnreadableImages,
    empty_set,
    examined,
    say_unreadable,
)
from core.errors import UserError, misspelt, shown
from core.places import expanded

PARTS = LABELLED, UNLABELLED, TEST = "labelled", "unlabelled", "test"


@dataclass(frozen=True)
class Found:
    """An image file: its id, the class its folder says ('' = nobody), and the part it is of."""

    path: Path
    id: str
    label: str
    part: str


def is_heap(root: Path) -> bool:
    """Say whether a folder is laid out as a heap."""
    return (root / UNLABELLED).is_dir() or (root / LABELLED).is_dir()


def load(root: str | Path, novel_classes: str = "", bad_images: str = "auto", follow_links: bool = False) -> DiscoveryData:
    """Return the heap in `root`.

    Ids are '<part>/<path below it>'; classes are those of `labelled`, by name, then those that only `test` has, which nobody trains.

    Args:
        novel_classes: must be empty: nobody knows them.
        bad_images: `refuse` raises UnreadableImages with all unreadable files, `skip` and `auto` leave them out.
        follow_links: symbolic links may lead out of `root`.

    Raises:
        UserError: nothing unlabelled, a class without images, one image labelled with two classes, a link out of `root`, a folder that
            is a part but for its spelling.
    """
    root = expanded(root, "data_root").resolve()
    if novel_classes:
        raise UserError(
            f"novel_classes = '{shown(novel_classes)}', but {root} is a heap: its novel classes are unknown; leave novel_classes out"
        )
    _say_beside(root)
    found = [*_of_classes(root, LABELLED, follow_links), *_unlabelled(root, follow_links), *_of_classes(root, TEST, follow_links)]
    return assemble(f"folder/{root.name}", found, bad_images, str(root))


def _say_beside(root: Path) -> None:
    """Print what lies beside the parts and takes no part, in one line; UserError for a folder that is meant to be a part."""
    images, folders = class_folders.beside(root, PARTS)
    if misnamed := _misspelt(root, folders):
        part, name = misnamed
        raise UserError(
            f"{root} has a folder '{shown(name)}' and none called '{part}'; did you mean '{part}'? rename it so, or move it away"
        )
    some = ", ".join(map(shown, folders[:SHOWN])) + (", ..." if len(folders) > SHOWN else "")
    words = [f"{len(folders)} folder{'s' if len(folders) > 1 else ''} ({some})"] if folders else []
    words = [f"{images} image{'s' if images > 1 else ''}", *words] if images else words
    if words:
        print(f"taxon: {root.name}: {' and '.join(words)} beside {', '.join(PARTS)} take no part", file=sys.stderr)


def misspelt_part(root: Path) -> tuple[str, str] | None:
    """Return the part that a folder is meant to be but for its spelling, where no folder is that part, and the folder's name."""
    return _misspelt(root, class_folders.beside(root, PARTS)[1])


def _misspelt(root: Path, folders: Sequence[str]) -> tuple[str, str] | None:
    for name in folders:
        part = misspelt(name, PARTS)
        if part and not (root / part).is_dir():
            return part, name
    return None


def _unlabelled(root: Path, follow_links: bool) -> list[Found]:
    folder = root / UNLABELLED
    found = class_folders.below_folder(folder, root, follow_links) if folder.is_dir() else class_folders.ClassFolder(())
    kinds = ", ".join(f"{kind or 'no extension'} {count}" for kind, count in sorted(found.ignored.items()))
    phone = "; HEIC cannot be read: save such photos as JPEG" if {".heic", ".heif"} & found.ignored.keys() else ""
    files = found.files
    if not files:
        other = f", only other files ({kinds}{phone})" if kinds else ""
        raise UserError(f"{folder} holds no image ({class_folders.USUAL}){other}: put the images to be sorted there, in any folders")
    if kinds:
        print(f"taxon: {root.name}/{UNLABELLED}: {sum(found.ignored.values())} files ignored ({kinds}{phone})", file=sys.stderr)
    return [Found(path, class_folders.below(path, root), "", UNLABELLED) for path in files]


def _of_classes(root: Path, part: str, follow_links: bool) -> list[Found]:
    """Return the images of the class folders of a part; none where there is no such part."""
    folder = root / part
    if not folder.is_dir():
        return []
    classes = class_folders.scan(folder, root, follow_links)
    loose = class_folders.left_out(folder, {}) if not classes else ""
    if loose:
        raise UserError(f"{folder} has no class folder ({loose}): put each image into a folder of its class, {folder}/<class>/")
    class_folders.say_left_out(folder, classes, f"{root.name}/{part}")
    for name, one in classes.items():
        _require_name(folder, name)
        if not one.files:
            raise UserError(f"{folder / name} holds no image ({class_folders.USUAL}): add some or remove the folder")
    return [Found(path, class_folders.below(path, root), name, part) for name, one in classes.items() for path in one.files]


def _require_name(folder: Path, name: str) -> None:
    """Raise UserError for a class that no table could name: `relabel` writes one."""
    if name in MISSING:
        raise UserError(f"{folder / name}: '{name}' stands for a missing value in tables and can be no class's name; rename the folder")
    if not is_text(name):
        raise UserError(f"{folder}: the class {name!a} holds characters that are no text; rename the folder")


def assemble(
    name: str,
    found: Sequence[Found],
    bad_images: str,
    where: str,
    truth: Sequence[str] = (),
    groups: Sequence[str] = (),
    held_out: Sequence[bool] = (),
) -> DiscoveryData:
    """Return the data set of image files, once they are examined.

    Args:
        found: every file; training images in the order in which they come.
        where: what an error line names.
        truth: the true class of each file, '' where nobody knows; for reports only.
        groups: the group of each file, '' for one that is alone; files of one content are of one group, whose groups become one.
        held_out: whether the user has set each file apart for model selection; none of them = that is drawn.

    Images for testing that are trained on as well, or in one group with such a copy, are left out and listed as skipped.
    """
    truth = truth or [""] * len(found)
    digests, unreadable = _readable(found, bad_images)
    kept = list(digests)
    _require_classes(found, kept, where)
    groups = groups or [""] * len(found)
    component = dict(zip(kept, joined([groups[i] for i in kept], list(digests.values())).tolist(), strict=True))
    copied = _copied(found, kept, digests, component)
    train, test = ([i for i in kept if (found[i].part == TEST) == is_test and i not in copied] for is_test in (False, True))
    _require_unlabelled(found, train, unreadable, where)
    _require_one_label(found, train, digests)
    names, n_known, labels = _classes(found, train, test, truth)
    given = np.array([found[i].part == LABELLED for i in train])
    twins = _twins([digests[i] for i in train], given)
    held_out = held_out if any(held_out) else ()
    _require_held_out(found, [i for i, twin in zip(train, twins, strict=True) if held_out and not twin], held_out, component, where)
    data = DiscoveryData(
        name,
        _images(found, train, labels[: len(train)], digests),
        _images(found, test, labels[len(train) :], digests),
        names,
        frozenset(range(n_known)),
        given=given,
        held_out=np.array([held_out[i] for i in train]) if held_out else None,
        groups=_numbered([component[i] for i in train], [bool(groups[i]) for i in train]),
        twins=twins if twins.any() else None,
        skipped=(*unreadable, *(Skipped(str(found[i].path), reason) for i, reason in copied.items())),
    )
    say_unreadable(unreadable, where)
    _say(data, [found[i].id for i in copied], where)
    return data


def _readable(found: Sequence[Found], bad_images: str) -> tuple[dict[int, str], list[Skipped]]:
    """Return the sha256 of each file that is a readable image, by its number, and those that are none; UnreadableImages to refuse them."""
    checked = examined([one.path for one in found])
    bad = [(one.path, reason) for one, (_, reason) in zip(found, checked, strict=True) if reason]
    if bad and bad_images == "refuse":
        raise UnreadableImages(bad, len(found))
    return {i: digest for i, (digest, reason) in enumerate(checked) if not reason}, [Skipped(str(path), reason) for path, reason in bad]


def _classes(found: Sequence[Found], train: list[int], test: list[int], truth: Sequence[str]) -> tuple[tuple[str, ...], int, np.ndarray]:
    """Return the names of the classes, labelled ones first, how many are labelled, and (N,) int64 the class of each image."""
    known = sorted({found[i].label for i in train if found[i].label})
    others = sorted({name for i in (*train, *test) for name in (found[i].label, truth[i]) if name} - set(known))
    positions = {name: i for i, name in enumerate((*known, *others))} | {"": NOBODY_SAID}
    return (*known, *others), len(known), np.array([positions[found[i].label or truth[i]] for i in (*train, *test)], np.int64)


def joined(groups: Sequence[str], contents: Sequence[str]) -> np.ndarray:
    """Return (N,) int64 numbers that are equal where a chain of one group ('' = none) or one content joins two images."""
    from scipy.sparse import coo_array  # half a second, which a folder that is none need not wait for
    from scipy.sparse.csgraph import connected_components

    n, keys = len(contents), dict[tuple[str, str | int], int]()
    columns = [keys.setdefault(("content", content), len(keys)) for content in contents]
    columns += [keys.setdefault(("group", group) if group else ("alone", i), len(keys)) for i, group in enumerate(groups)]
    links = coo_array((np.ones(2 * n, np.int8), (np.tile(np.arange(n), 2), n + np.array(columns, np.int64))), shape=(n + len(keys),) * 2)
    component: np.ndarray = connected_components(links, directed=False)[1][:n].astype(np.int64)
    return component


def _copied(found: Sequence[Found], kept: Sequence[int], digests: Mapping[int, str], component: Mapping[int, int]) -> dict[int, str]:
    """Return the images for testing that are copies of training images, or of one group with such a copy, and the reason of each."""
    first = {digests[i]: found[i].id for i in reversed(kept) if found[i].part != TEST}
    trained = {component[i] for i in kept if found[i].part != TEST}
    return {
        i: f"a copy of {first[digests[i]]}, which is trained on" if digests[i] in first else "of one group with a copy of a training image"
        for i in kept
        if found[i].part == TEST and component[i] in trained
    }


def _require_held_out(
    found: Sequence[Found], rows: Sequence[int], held_out: Sequence[bool], component: Mapping[int, int], where: str
) -> None:
    """Raise UserError where copies, or groups that copies join, are in part held out by the user."""
    first: dict[int, int] = {}
    torn = [(first[component[i]], i) for i in rows if held_out[first.setdefault(component[i], i)] != held_out[i]]
    if torn:
        pairs = "; ".join(f"{shown(found[one].id)} and {shown(found[other].id)}" for one, other in torn[:SHOWN])
        more = f" and {len(torn) - SHOWN} more pairs" if len(torn) > SHOWN else ""
        raise UserError(
            f"{where} holds out (split = val) what it trains on, the same image or groups that share it: {pairs}{more}; give them one split"
        )


def _numbered(components: Sequence[int], grouped: Sequence[bool]) -> np.ndarray | None:
    """Return (N,) int64 group numbers in order of the first image; those of images that are alone come after. None where all are.

    grouped: whether the user has put each image into a group.
    """
    counts = Counter(components)
    together = [user or counts[one] > 1 for one, user in zip(components, grouped, strict=True)]
    if not any(together):
        return None
    numbers = {
        one: number for number, one in enumerate(dict.fromkeys(one for one, is_in in zip(components, together, strict=True) if is_in))
    }
    return np.array([numbers.get(one, len(numbers) + i) for i, one in enumerate(components)], np.int64)


def _images(found: Sequence[Found], rows: list[int], labels: np.ndarray, digests: dict[int, str]) -> ImageSet:
    if not rows:
        return empty_set()
    source = FileImages([found[i].path for i in rows], [digests[i] for i in rows])
    return ImageSet(tuple(found[i].id for i in rows), labels, source)


def _require_classes(found: Sequence[Found], kept: list[int], where: str) -> None:
    """Raise UserError where a labelled class has lost all of its images."""
    left = {found[i].label for i in kept if found[i].part == LABELLED}
    for name in sorted({one.label for one in found if one.part == LABELLED} - left):
        raise UserError(f"no image of the labelled class '{name}' of {where} can be read; mend them or remove the class")


def _require_unlabelled(found: Sequence[Found], train: list[int], unreadable: Sequence[Skipped], where: str) -> None:
    """Raise UserError where no unlabelled image can be read."""
    if not any(found[i].part == UNLABELLED for i in train):
        lost = {str(one.path) for one in found if one.part == UNLABELLED}
        first = next(one for one in unreadable if one.path in lost)
        raise UserError(f"none of the unlabelled images of {where} can be read; the first: {first.path} ({first.reason})")


def _require_one_label(found: Sequence[Found], rows: list[int], digests: dict[int, str]) -> None:
    """Raise UserError for one content that is labelled with two classes."""
    said: dict[str, int] = {}
    clashes = []
    for i in rows:
        if found[i].part != LABELLED:
            continue
        first = said.setdefault(digests[i], i)
        if found[first].label != found[i].label:
            clashes.append(f"{shown(found[first].id)} ({found[first].label}) and {shown(found[i].id)} ({found[i].label})")
    if clashes:
        more = f" and {len(clashes) - SHOWN} more pairs" if len(clashes) > SHOWN else ""
        raise UserError(f"the same image is labelled with two classes: {'; '.join(clashes[:SHOWN])}{more}; keep one of each")


def _twins(digests: list[str], given: np.ndarray) -> np.ndarray:
    """Return the (N,) mask of unlabelled images that are copies of labelled ones."""
    labelled = {digest for digest, is_given in zip(digests, given, strict=True) if is_given}
    return np.array([not is_given and digest in labelled for digest, is_given in zip(digests, given, strict=True)], bool)


def _say(data: DiscoveryData, copied: Sequence[str], where: str) -> None:
    """Print what a person should know of the heap, a line each.

    copied: ids of images for testing that are left out as copies.
    """
    assert data.given is not None
    n_given, n_heap = int(data.given.sum()), int((~data.given).sum())
    lines = []
    if copied:
        lines.append(
            f"{len(copied)} images for testing are copies of training images; they are left out (skipped.csv), such as {shown(copied[0])}"
        )
    if data.twins is not None:
        lines.append(f"{int(data.twins.sum())} unlabelled images are copies of labelled ones; they take part in no training")
    if n_heap < n_given:
        lines.append(f"fewer unlabelled images ({n_heap}) than labelled ones ({n_given}): little is left to discover")
    single = [data.class_names[c] for c, n in sorted(Counter(data.train.labels[data.given].tolist()).items()) if n == 1]
    if single:
        some = ", ".join(single[:SHOWN]) + (", ..." if len(single) > SHOWN else "")
        lines.append(f"one labelled image only of {some}: it trains, and nothing tells how well the class is found")
    cases: dict[str, list[str]] = {}
    for name in sorted(data.class_names[c] for c in data.known_classes):
        cases.setdefault(name.casefold(), []).append(name)
    alike = [", ".join(names) for names in cases.values() if len(names) > 1]
    if alike:
        lines.append(f"classes that differ by letter case only: {'; '.join(alike[:SHOWN])}{'; ...' if len(alike) > SHOWN else ''}")
    for line in lines:
        print(f"taxon: {where}: {line}", file=sys.stderr)
