"""An answer as other tools take it: folders, links, FiftyOne, Label Studio or COCO.

Images are copied as the files they are; those of a data set without files become PNG files. Everything lies in one new folder: names of
categories and images, whatever they hold, cannot lead out of it, and nothing is overwritten. The folder appears whole: it is filled under
a hidden name beside it. In a user's own folder a small file in it says of which pipeline and answer it is, so that the same command, after
a crash, takes what is there for what it is.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sys
import unicodedata
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from core.data.decoding import size_of
from core.data.images import FileImages, ImageSource
from core.errors import UserError, nearest
from core.evaluation.answer import Answer
from core.places import unwritable
from core.progress import bar
from core.stages.discovery import new_folder

Kind = Literal["folders", "links", "fiftyone", "labelstudio", "coco"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MARK = ".taxon-export.json"  # in a folder that a pipeline has exported: its key, and the digest of the answer
_LONGEST = 200  # bytes of a name: file systems take 255, and a number and a suffix may follow
_LONGEST_SUFFIX = 20
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\ud800-\udfff]')


def kinds(text: str) -> tuple[Kind, ...]:
    """Return the kinds in a comma-separated list, each once; UserError for one that there is not."""
    asked = list(dict.fromkeys(piece.strip() for piece in text.split(",") if piece.strip()))
    for kind in asked:
        if kind not in KINDS:
            raise UserError(f"export: there is no kind '{kind}'{nearest(kind, KINDS)} (choose from: {', '.join(KINDS)})")
    return tuple(kind for kind in KINDS if kind in asked)


def require_place(asked: tuple[Kind, ...], export_to: str) -> None:
    """Make the folder `export_to`; raise UserError for links without one, and for one that cannot be written or is taken."""
    if not export_to:
        if "links" in asked:
            raise UserError(
                "export = links needs export_to, a folder of this machine: artifacts cannot hold links; or use export = folders"
            )
        return
    if not asked:
        raise UserError(f"export_to = '{export_to}', but nothing is to be exported; give export ({', '.join(KINDS)}), or leave it out")
    if reason := unwritable(new_folder.named(export_to, "export_to")):
        raise UserError(f"export_to = '{export_to}' cannot be written ({reason}); give another folder")
    for kind in asked:
        _require_free(place_of(export_to, kind))


def place_of(export_to: str, kind: Kind) -> Path:
    """Return the folder of one export below the option `export_to`; UserError where no system could have that."""
    return new_folder.named(export_to, "export_to") / kind


def require_own(asked: tuple[Kind, ...], export_to: str, source: ImageSource, key: str) -> None:
    """Raise UserError, before anything is computed, for exports that cannot be made of these images or lie where another pipeline's are."""
    for kind in asked:
        _require_files(kind, source)
        if export_to:
            _require_free(place_of(export_to, kind), key)


def export(kind: Kind, answer: Answer, folder: Path, source: ImageSource, key: str = "") -> None:
    """Write an answer as a new folder; UserError where it exists and is not empty, and for links to a data set without files.

    folders, links: <category>/<file>, copies or symbolic links. fiftyone: data/ and labels.json, a FiftyOneImageClassificationDataset.
    labelstudio: images/, tasks.json with one prediction an image (an annotation where people gave the label), and label_config.xml.
    coco: images/ and annotations.json, each image in one box.

    Args:
        source: the images, in the order of the answer's rows.
        key: of the pipeline that asks: its own export of this very answer stays as it is. '' = nobody comes back to the folder.
    """
    if len(source) != len(answer):
        raise ValueError(f"{len(source)} images are not those of an answer of {len(answer)}")
    _require_files(kind, source)
    _require_free(folder, key)
    if (found := _marked(folder)) is not None:
        if found["answer"] != answer.digest:
            raise UserError(f"{folder} holds another answer of this pipeline: export into a new folder, or remove it")
        print(f"taxon: {folder} holds this answer already: it stays as it is", file=sys.stderr)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    hidden = folder.with_name(f".{folder.name}-{key[:16] or uuid.uuid4().hex[:16]}")
    shutil.rmtree(hidden, ignore_errors=True)  # what a run of this pipeline had made when it was killed
    try:
        hidden.mkdir()
        _WRITERS[kind](answer, hidden, source)
        if key:
            _json(hidden / MARK, {"kind": kind, "key": key, "answer": answer.digest})
        hidden.replace(folder)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _require_files(kind: Kind, source: ImageSource) -> None:
    if kind == "links" and not isinstance(source, FileImages):
        raise UserError("export=links needs images that are files, which this data set has not; use export=folders")


def _require_free(folder: Path, key: str | None = None) -> None:
    """Raise UserError for a place that holds anything but an export of the pipeline `key`; None = of any pipeline."""
    if not os.path.lexists(folder) or (folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())):
        return
    found = _marked(folder)
    if found is None:
        raise UserError(f"{folder} is there already: export into a new folder, or remove it")
    if key not in (None, found["key"]):
        raise UserError(f"{folder} is there already, with the answer of another pipeline: export into a new folder, or remove it")


def _marked(folder: Path) -> dict[str, str] | None:
    """Return what the mark in a folder says; None where there is none that can be read."""
    try:
        found = json.loads((folder / MARK).read_text(encoding="utf-8"))
        return {name: str(found[name]) for name in ("kind", "key", "answer")} if found["kind"] == folder.name else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def safe_name(text: str, longest: int = _LONGEST) -> str:
    """Return a text as the name of a file or folder on any system: no separators, no leading dot, never empty, about `longest` bytes."""
    name = _UNSAFE.sub("_", unicodedata.normalize("NFC", text)).strip()
    name = re.sub(r"^\.+", lambda dots: "_" * len(dots[0]), name)
    name = name.encode()[:longest].decode(errors="ignore").rstrip(" .")  # whole letters
    return f"_{name}" if not name or _RESERVED.fullmatch(name) else name


class _Names:
    """Names in one folder that differ on every system, also where capital letters do not count."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.next: dict[tuple[str, str], int] = {}  # the number to try for a stem and suffix: it only grows

    def free(self, stem: str, suffix: str = "") -> str:
        """Return `stem``suffix`, with ` (2)`, ` (3)`, ... between them where it is taken."""
        key = (stem.casefold(), suffix.casefold())
        for number in itertools.count(self.next.get(key, 1)):
            name = f"{stem} ({number}){suffix}" if number > 1 else stem + suffix
            if name.casefold() not in self.taken:
                break
        self.taken.add(name.casefold())
        self.next[key] = number + 1
        return name


def _into_folders(answer: Answer, folder: Path, source: ImageSource) -> None:
    _sort(answer, folder, source, lambda row, path: _copy(source, row, path))


def _into_links(answer: Answer, folder: Path, source: ImageSource) -> None:
    assert isinstance(source, FileImages)
    _sort(answer, folder, source, lambda row, path: path.symlink_to(Path(os.path.abspath(source.paths[row]))))


def _sort(answer: Answer, folder: Path, source: ImageSource, put: Callable[[int, Path], object]) -> None:
    """Let `put` make <category>/<file> of every image; a category without images has an empty folder."""
    names = _Names()
    folders = {category.cluster: folder / names.free(safe_name(category.name)) for category in answer.categories}
    for path in folders.values():
        path.mkdir()
    files = {cluster: _Names() for cluster in folders}
    for row in _rows(answer):
        cluster = int(answer.clusters[row])
        stem = safe_name(Path(answer.ids[row].replace("\\", "/")).stem)
        put(row, folders[cluster] / files[cluster].free(stem, _suffix(source, row)))


def _into_fiftyone(answer: Answer, folder: Path, source: ImageSource) -> None:
    files = _numbered(answer, folder / "data", source)
    position = {category.cluster: i for i, category in enumerate(answer.categories)}
    labels = {
        Path(file).stem: {
            "label": position[int(answer.clusters[row])],
            "confidence": float(answer.confidences[row]),
            "attributes": {"image_id": answer.ids[row], "part": answer.parts[row], "given_label": answer.labels[row]},
        }
        for row, file in enumerate(files)
    }
    _json(folder / "labels.json", {"classes": [category.name for category in answer.categories], "labels": labels})


def _into_labelstudio(answer: Answer, folder: Path, source: ImageSource) -> None:
    files = _numbered(answer, folder / "images", source)
    _json(folder / "tasks.json", [_task(answer, row, file) for row, file in enumerate(files)])
    names = dict.fromkeys([*(category.name for category in answer.categories), *filter(None, answer.labels)])
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in names)
    view = f'<View>\n  <Image name="image" value="$image"/>\n  <Choices name="category" toName="image">\n{choices}  </Choices>\n</View>\n'
    (folder / "label_config.xml").write_text(view, encoding="utf-8")


def _task(answer: Answer, row: int, file: str) -> dict[str, Any]:
    """Return one task: the image by its path below the exported folder, which is the tool's LOCAL_FILES_DOCUMENT_ROOT."""

    def chosen(name: str) -> list[dict[str, Any]]:
        return [{"from_name": "category", "to_name": "image", "type": "choices", "value": {"choices": [name]}}]

    name = answer.categories[int(answer.clusters[row])].name
    about = {"id": answer.ids[row], "part": answer.parts[row]}
    score = float(answer.confidences[row])
    task: dict[str, Any] = {
        "data": {"image": f"/data/local-files/?d={quote(f'images/{file}')}", **about},
        "predictions": [{"model_version": f"taxon {answer.digest[:12]}", "score": score, "result": chosen(name)}],
    }
    return task | ({"annotations": [{"result": chosen(answer.labels[row])}]} if answer.labels[row] else {})


def _into_coco(answer: Answer, folder: Path, source: ImageSource) -> None:
    files = _numbered(answer, folder / "images", source)
    images, annotations = [], []
    for row, file in enumerate(files):
        width, height = size_of(folder / "images" / file)
        images.append({"id": row + 1, "file_name": file, "width": width, "height": height, "taxon_id": answer.ids[row]})
        annotations.append(
            {
                "id": row + 1,
                "image_id": row + 1,
                "category_id": int(answer.clusters[row]) + 1,
                "bbox": [0, 0, width, height],
                "area": width * height,
                "iscrowd": 0,
                "score": float(answer.confidences[row]),
            }
        )
    categories = [{"id": c.cluster + 1, "name": c.name, "supercategory": "known" if c.known else "novel"} for c in answer.categories]
    about = {"description": "categories found by taxon; each box is the whole image"}
    _json(folder / "annotations.json", {"info": about, "images": images, "annotations": annotations, "categories": categories})


def _numbered(answer: Answer, folder: Path, source: ImageSource) -> list[str]:
    """Copy the images into a new folder by their row's number; return their file names."""
    folder.mkdir()
    files = []
    for row in _rows(answer):
        files.append(f"{row:06d}{_suffix(source, row)}")
        _copy(source, row, folder / files[-1])
    return files


def _rows(answer: Answer) -> Iterable[int]:
    return bar(range(len(answer)), "exporting")


def _suffix(source: ImageSource, row: int) -> str:
    """Return what the file's name ends in, '.png' for an image without a file."""
    if not isinstance(source, FileImages):
        return ".png"
    suffix = safe_name(Path(source.paths[row]).suffix.lower().lstrip("."), _LONGEST_SUFFIX)
    return f".{suffix}" if suffix.strip("_") else ""


def _copy(source: ImageSource, row: int, path: Path) -> None:
    """Write an image as a new file; UserError where its file is gone."""
    if not isinstance(source, FileImages):
        with path.open("xb") as file:
            Image.fromarray(source.load(np.array([row]))[0]).save(file, "PNG")
        return
    try:
        with open(source.paths[row], "rb") as original, path.open("xb") as file:
            shutil.copyfileobj(original, file)
    except FileNotFoundError:
        raise UserError(f"{source.paths[row]} is gone: it was there when the run started; put it back and export again") from None


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


_WRITERS: dict[Kind, Callable[[Answer, Path, ImageSource], None]] = {
    "folders": _into_folders,
    "links": _into_links,
    "fiftyone": _into_fiftyone,
    "labelstudio": _into_labelstudio,
    "coco": _into_coco,
}
