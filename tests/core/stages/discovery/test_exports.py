"""Exports open in the tools they are for, stay in their folder, and overwrite nothing."""

import dataclasses
import json
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.data.images import ArrayImages, FileImages
from core.errors import UserError
from core.evaluation.answer import Answer, Category
from core.stages.discovery import exports

NAMES = ("../rose", 'a/b <"&x>')
IDS = ("../../a.png", "x/b.JPG", "y/b.jpg", "..", "con.png", "b.JPG")


def read_by(package: str, program: str, folder: Path) -> Any:
    """Return `found` of a program that has `folder` and a package in an environment of its own: these tools are not among ours."""
    if not shutil.which("uv"):
        pytest.skip("needs uv (pip install uv)")
    text = f"import json, sys\nfolder = sys.argv[1]\n{program}\njson.dump(found, open(sys.argv[2], 'w'))\n"
    command = ["uv", "run", "--no-project", "--python", "3.11", "--with", package, "python", "-c", text, str(folder)]
    done = subprocess.run([*command, str(folder.with_name("found.json"))], capture_output=True, text=True, timeout=600)
    if done.returncode and "Traceback" not in done.stderr:
        pytest.skip(f"{package} cannot be installed: {done.stderr.strip().splitlines()[-1][:200]}")
    assert not done.returncode, done.stderr
    return json.loads(folder.with_name("found.json").read_text())


def an_answer(ids=IDS, names=NAMES):
    """Return an answer of two categories: even rows are in the first, which is known; the first image has a label."""
    n = len(ids)
    clusters = np.arange(n) % 2
    zeros, none = np.zeros(n, np.int64), ()
    categories = tuple(
        Category(c, name, c == 0, int((clusters == c).sum()), 0.9, 0.5, 1 - c, None, 0.8, none, none, none) for c, name in enumerate(names)
    )
    parts = ("labelled", *["unlabelled"] * (n - 1))
    return Answer(
        tuple(ids),
        tuple(ids),
        tuple(map(str, range(n))),
        (names[0], *[""] * (n - 1)),
        parts,
        clusters,
        zeros,
        np.linspace(0.5, 1, n),
        np.full(n, 0.5),
        zeros,
        zeros - 1,
        np.zeros((n, 2), np.float32),
        categories,
        digest="d" * 64,
    )


def files(folder):
    """Return an image file for each of IDS, of two kinds."""
    folder.mkdir()
    paths = [folder / f"{i}.{'png' if i % 3 else 'JPG'}" for i in range(len(IDS))]
    for i, path in enumerate(paths):
        Image.new("RGB", (8 + i, 6), (i * 40, 0, 0)).save(path)
    return FileImages(paths)


def content_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folders_hold_copies_by_category(tmp_path):
    source = files(tmp_path / "in")
    exports.export("folders", an_answer(), tmp_path / "out", source)
    found = content_of(tmp_path / "out")
    assert sorted(found) == [
        "___rose/_con.png",
        "___rose/a.jpg",
        "___rose/b.png",
        "a_b __&x_/__.jpg",
        "a_b __&x_/b (2).png",
        "a_b __&x_/b.png",
    ]
    assert sorted(found.values()) == sorted(path.read_bytes() for path in source.paths)


def test_links_lead_to_the_originals_and_need_files(tmp_path):
    source = files(tmp_path / "in")
    exports.export("links", an_answer(), tmp_path / "out", source)
    links = [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()]
    assert {link.resolve() for link in links} == {path.resolve() for path in source.paths} and len(links) == len(IDS)
    with pytest.raises(UserError, match="use export=folders"):
        exports.export("links", an_answer(), tmp_path / "other", ArrayImages(np.zeros((len(IDS), 4, 4, 3), np.uint8)))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("kind", exports.KINDS)
def test_nothing_is_overwritten_and_nothing_lies_outside(tmp_path, kind):
    source = files(tmp_path / "in")
    before = content_of(tmp_path)
    exports.export(kind, an_answer(), tmp_path / "out", source)
    made = content_of(tmp_path)
    assert all(made[name] == content for name, content in before.items())
    assert all(name.startswith(("out/", "in/")) for name in made)
    with pytest.raises(UserError, match="out is there already"):
        exports.export(kind, an_answer(), tmp_path / "out", source)
    assert content_of(tmp_path) == made


@pytest.mark.parametrize("kind", [kind for kind in exports.KINDS if kind != "links"])
def test_images_without_files_become_png_of_the_same_pixels(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 255, (len(IDS), 8, 8, 3), np.uint8)
    exports.export(kind, an_answer(), tmp_path / "out", ArrayImages(pixels))
    found = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").rglob("*.png"))]
    assert sorted(map(bytes, found)) == sorted(map(bytes, pixels))


def test_a_file_that_is_gone_is_named(tmp_path):
    source = files(tmp_path / "in")
    source.paths[2].unlink()
    with pytest.raises(UserError, match=r"2\.png is gone"):
        exports.export("coco", an_answer(), tmp_path / "out", source)


def test_fiftyone_labels_are_classes_by_number(tmp_path):
    exports.export("fiftyone", an_answer(), tmp_path / "out", files(tmp_path / "in"))
    said = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert said["classes"] == list(NAMES)
    assert {name: one["label"] for name, one in said["labels"].items()} == {f"{row:06d}": row % 2 for row in range(len(IDS))}
    assert {path.stem for path in (tmp_path / "out" / "data").iterdir()} == set(said["labels"])
    assert said["labels"]["000000"]["attributes"] == {"image_id": IDS[0], "part": "labelled", "given_label": NAMES[0]}


FIFTYONE = """
from fiftyone.utils.data import FiftyOneImageClassificationDatasetImporter
with FiftyOneImageClassificationDatasetImporter(dataset_dir=folder) as importer:  # needs no database
    found = [(str(path), label.label, label.confidence, label["part"]) for path, _, label in importer]
"""


@pytest.mark.slow
def test_fiftyone_imports_it(tmp_path):
    source = files(tmp_path / "in")
    exports.export("fiftyone", an_answer(), tmp_path / "out", source)
    found = read_by("fiftyone==1.22.1", FIFTYONE, tmp_path / "out")
    assert [label for _, label, *_ in found] == list(NAMES * 3)
    assert found[0][2:] == [0.5, "labelled"] and Path(found[1][0]).read_bytes() == source.paths[1].read_bytes()


def tasks(tmp_path):
    exports.export("labelstudio", an_answer(), tmp_path / "out", files(tmp_path / "in"))
    folder = tmp_path / "out"
    return json.loads((folder / "tasks.json").read_text()), (folder / "label_config.xml").read_text()


def test_labelstudio_tasks_name_files_and_choices_of_the_config(tmp_path):
    made, config = tasks(tmp_path)
    choices = [choice.get("value") for choice in ET.fromstring(config).iter("Choice")]
    assert choices == list(NAMES)
    for row, task in enumerate(made):
        (path,) = parse_qs(urlsplit(task["data"]["image"]).query)["d"]
        assert (tmp_path / "out" / path).is_file()
        assert task["predictions"][0]["result"][0]["value"]["choices"] == [NAMES[row % 2]]
    assert [("annotations" in task) for task in made] == [True] + [False] * (len(IDS) - 1)
    assert made[0]["annotations"][0]["result"][0]["value"]["choices"] == [NAMES[0]]


LABEL_STUDIO = """
from pathlib import Path
from label_studio_sdk.label_interface import LabelInterface
interface = LabelInterface((Path(folder) / "label_config.xml").read_text())
interface.validate()
tasks = json.loads((Path(folder) / "tasks.json").read_text())
found = [[interface.validate_prediction(one) for one in task["predictions"]] for task in tasks]
found += [[interface.validate_annotation(one) for one in task.get("annotations", ())] for task in tasks]
"""


@pytest.mark.slow
def test_labelstudio_validates_them(tmp_path):
    tasks(tmp_path)
    found = read_by("label-studio-sdk==2.1.2", LABEL_STUDIO, tmp_path / "out")
    assert found == [[True]] * len(IDS) + [[True]] + [[]] * (len(IDS) - 1)


def test_coco_boxes_are_whole_images(tmp_path):
    exports.export("coco", an_answer(), tmp_path / "out", files(tmp_path / "in"))
    said = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [category["name"] for category in said["categories"]] == list(NAMES)
    assert [category["supercategory"] for category in said["categories"]] == ["known", "novel"]
    for image, box in zip(said["images"], said["annotations"], strict=True):
        assert Image.open(tmp_path / "out" / "images" / image["file_name"]).size == (image["width"], image["height"])
        assert box["bbox"] == [0, 0, image["width"], image["height"]] and box["image_id"] == image["id"]


COCO = """
from pycocotools.coco import COCO
coco = COCO(folder + "/annotations.json")
names = [one["name"] for one in coco.loadCats(coco.getCatIds())]
boxes = coco.loadRes([{key: one[key] for key in ("image_id", "category_id", "bbox", "score")} for one in coco.anns.values()])
found = [names, [coco.getImgIds(catIds=[id]) for id in coco.getCatIds()], len(boxes.anns)]
"""


@pytest.mark.slow
def test_pycocotools_reads_it(tmp_path):
    exports.export("coco", an_answer(), tmp_path / "out", files(tmp_path / "in"))
    assert read_by("pycocotools==2.0.11", COCO, tmp_path / "out") == [list(NAMES), [[1, 3, 5], [2, 4, 6]], len(IDS)]


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.text(max_size=120))
def test_every_name_is_one_that_any_system_takes(text):
    name = exports.safe_name(text)
    assert name and len(name.encode()) <= 201 and not set(name) & set('/\\<>:"|?*\0') and not name.startswith(".")
    assert name == name.rstrip(" .") and name.encode() and name.split(".")[0].lower() not in ("con", "nul", "prn", "aux")


def test_names_that_differ_in_capitals_only_get_a_number():
    names = exports._Names()
    assert [names.free("Rose"), names.free("rose"), names.free("rose (2)"), names.free("a", ".jpg"), names.free("A", ".JPG")] == [
        "Rose",
        "rose (2)",
        "rose (2) (2)",
        "a.jpg",
        "A (2).JPG",
    ]


def test_equal_names_are_numbered_without_trying_each_number_again():
    probes = 0

    class Counted(set):
        def __contains__(self, name: object) -> bool:
            nonlocal probes
            probes += 1
            return super().__contains__(name)

    names = exports._Names()
    names.taken = Counted()
    made = [names.free("rgb" if i % 2 else "RGB", ".png") for i in range(20_000)]
    assert len({name.casefold() for name in made}) == 20_000 and made[:2] == ["RGB.png", "rgb (2).png"] and made[-1] == "rgb (20000).png"
    assert probes == 20_000


@pytest.mark.parametrize("kind", ["folders", "coco"])
def test_names_of_letters_that_take_many_bytes_are_names_of_files(tmp_path, kind):
    long = "🌳" * 120
    answer = an_answer()
    categories = tuple(dataclasses.replace(one, name=f"{long}{one.cluster}") for one in answer.categories)
    answer = dataclasses.replace(answer, categories=categories, ids=tuple(f"{long}{i}.png" for i in range(len(answer))))
    exports.export(kind, answer, tmp_path / "out", files(tmp_path / "in"))
    if kind == "folders":
        folders = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert folders[:2] == ["🌳" * 50, "🌳" * 50 + " (2)"] and len(folders) == len(categories)
        assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == len(answer)


def test_kinds_are_parsed_and_an_unknown_one_is_named():
    assert exports.kinds(" coco, folders,coco,") == ("folders", "coco")
    assert exports.kinds("") == ()
    with pytest.raises(UserError, match=r"no kind 'fiftytwo'.*did you mean 'fiftyone'"):
        exports.kinds("fiftytwo")


def all_of(folder):
    """Return every file below a folder but the marks, with its content."""
    return {name: content for name, content in content_of(folder).items() if not name.endswith(exports.MARK)}


def test_a_kill_between_two_kinds_and_the_same_command_again_make_both_whole(tmp_path, monkeypatch):
    source, place = files(tmp_path / "in"), tmp_path / "out"
    into = {kind: exports.place_of(str(place), kind) for kind in ("folders", "coco")}

    def killed(answer, folder, source):
        (folder / "half").write_text("of a file")
        os._exit(9)

    if not (child := os.fork()):
        monkeypatch.setitem(exports._WRITERS, "coco", killed)
        for kind, folder in into.items():
            exports.export(kind, an_answer(), folder, source, "k1")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert into["folders"].is_dir() and not into["coco"].exists()
    (first,) = (into["folders"] / "___rose").glob("a.jpg")
    first.write_bytes(b"a person has worked on it")
    exports.require_place(("folders", "coco"), str(place))
    exports.require_own(("folders", "coco"), str(place), source, "k1")
    for kind, folder in into.items():
        exports.export(kind, an_answer(), folder, source, "k1")
    assert first.read_bytes() == b"a person has worked on it"
    assert sorted(one.name for one in place.iterdir()) == ["coco", "folders"] and not list(place.rglob("half"))
    exports.export("coco", an_answer(), tmp_path / "once", source)
    assert all_of(into["coco"]) == content_of(tmp_path / "once")


@pytest.mark.parametrize("kind", exports.KINDS)
def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.setitem(exports._WRITERS, kind, lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        exports.export(kind, an_answer(), tmp_path / "out" / kind, files(tmp_path / "in"), "k1")
    assert list((tmp_path / "out").iterdir()) == []


def test_folders_of_others_and_of_another_answer_are_refused(tmp_path):
    source, place = files(tmp_path / "in"), str(tmp_path / "out")
    folder = exports.place_of(place, "coco")
    exports.export("coco", an_answer(), folder, source, "k1")
    with pytest.raises(UserError, match="coco is there already, with the answer of another pipeline"):
        exports.require_own(("coco",), place, source, "k2")
    with pytest.raises(UserError, match="coco holds another answer of this pipeline"):
        exports.export("coco", dataclasses.replace(an_answer(), digest="e" * 64), folder, source, "k1")
    before = content_of(folder)
    (folder / exports.MARK).write_text("{}")
    with pytest.raises(UserError, match="coco is there already: export into a new folder"):
        exports.require_place(("coco",), place)
    (folder / exports.MARK).unlink()
    folder.rename(folder.with_name("mine"))
    folder.symlink_to(folder.with_name("mine"))
    with pytest.raises(UserError, match="coco is there already: export into a new folder"):
        exports.export("coco", an_answer(), folder, source, "k1")
    assert all_of(folder) == {name: content for name, content in before.items() if name != exports.MARK}


def test_what_cannot_be_exported_is_refused_before_anything_is_computed(tmp_path):
    pixels = ArrayImages(np.zeros((1, 4, 4, 3), np.uint8))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="links needs images that are files"):
        exports.require_own(("links",), str(tmp_path), pixels, "k1")
    with pytest.raises(UserError, match=r"export_to = '.*file' cannot be written \(.*\); give another folder"):
        exports.require_place(("coco",), str(tmp_path / "file"))


@pytest.mark.parametrize("given", ["n" * 300, "~nosuchuser/x"])
def test_a_place_that_no_system_could_have_is_one_line(given):
    with pytest.raises(UserError, match=r"^export_to = '.* cannot be a folder \(.*\): give another one$"):
        exports.require_place(("coco",), given)
