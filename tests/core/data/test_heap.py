"""A heap is read as it lies: what people labelled, what nobody did, what is left out and why; whatever is wrong is one line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.data import catalog, heap
from core.data.images import NOBODY_SAID
from core.data.splits import split_of
from tests.core.stages.tiny import refused


def write(path: Path, number: int) -> Path:
    """Write an image of its own for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((9, 9, 3), number, np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """Return a heap: two labelled classes of two images, four images in folders that mean nothing."""
    folder = tmp_path / "leaves"
    for i, name in enumerate(("oak/a", "oak/b", "elm/c", "elm/old/d")):
        write(folder / "labelled" / f"{name}.png", i)
    for i, name in enumerate(("e", "monday/f", "monday/morning/g", "elm/h")):
        write(folder / "unlabelled" / f"{name}.png", 10 + i)
    return folder


def said(data) -> list[str]:
    """Return the class of each training image, '' where nobody knows."""
    return ["" if label == NOBODY_SAID else data.class_names[label] for label in data.train.labels]


def test_labelled_folders_are_classes_and_unlabelled_ones_mean_nothing(root):
    data = heap.load(root)
    assert data.name == "folder/leaves" and data.class_names == ("elm", "oak") and data.known_classes == {0, 1}
    assert data.train.ids[:4] == ("labelled/elm/c.png", "labelled/elm/old/d.png", "labelled/oak/a.png", "labelled/oak/b.png")
    assert set(data.train.ids[4:]) == {f"unlabelled/{name}.png" for name in ("e", "monday/f", "monday/morning/g", "elm/h")}
    assert said(data) == ["elm", "elm", "oak", "oak", "", "", "", ""] and data.given.tolist() == [True] * 4 + [False] * 4
    assert data.twins is None and data.groups is None and data.held_out is None and not data.skipped and not len(data.test)


@pytest.mark.parametrize("name", ["labelled", "unlabelled"])
def test_the_catalog_recognises_a_heap_and_never_reads_the_digits_for_it(root, name):
    assert catalog.recognised(str(root)) == "folder"
    assert catalog.load("folder", str(root), "", "", False).train.ids == heap.load(root).train.ids
    shutil.rmtree(root / name)
    assert catalog.recognised(str(root)) == "folder"
    shutil.rmtree(root)
    root.mkdir()
    assert "unlabelled" in refused(lambda: catalog.recognised(str(root)))


@pytest.mark.parametrize("how", ["absent", "empty"])
def test_without_a_labelled_image_everything_is_to_be_discovered(root, how):
    shutil.rmtree(root / "labelled")
    if how == "empty":
        (root / "labelled").mkdir()
    data = heap.load(root)
    assert said(data) == [""] * 4 and data.class_names == () and not data.given.any() and data.known_classes == frozenset()
    split = split_of(data, 1.0, 0.1, 1)
    assert (len(split.labelled), len(split.validation), split.unlabelled.tolist()) == (0, 0, [0, 1, 2, 3])


def test_labelled_images_in_no_class_folder_are_refused(root):
    shutil.rmtree(root / "labelled")
    write(root / "labelled" / "a.png", 1)
    assert "labelled has no class folder (1 image in no class folder ignored): put each image" in refused(lambda: heap.load(root))


def test_the_test_part_may_have_classes_of_its_own_which_nobody_trains(root):
    for i, name in enumerate(("oak/x", "ash/y")):
        write(root / "test" / f"{name}.png", 30 + i)
    data = heap.load(root)
    assert data.class_names == ("elm", "oak", "ash") and data.known_classes == {0, 1}
    assert data.test.ids == ("test/ash/y.png", "test/oak/x.png") and data.test.labels.tolist() == [2, 1]
    assert said(data)[:4] == ["elm", "elm", "oak", "oak"]


def test_copies_of_labelled_images_take_part_in_nothing_and_that_is_said(root, capsys):
    shutil.copy(root / "labelled/oak/a.png", root / "unlabelled/again.png")
    data = heap.load(root)
    (twin,) = np.flatnonzero(data.twins)
    assert data.train.ids[twin] == "unlabelled/again.png" and not data.given[twin]
    split = split_of(data, 1.0, 0.0, 1)
    assert split.left_out.tolist() == [twin] and twin not in split.unlabelled
    assert "1 unlabelled images are copies of labelled ones" in capsys.readouterr().err


def test_copies_among_labelled_images_are_one_group_and_never_held_out_in_part(root):
    for i in range(6):
        write(root / f"labelled/oak/more{i}.png", 100 + i)
        shutil.copy(root / f"labelled/oak/more{i}.png", root / f"labelled/oak/z{i} again.png")
    data = heap.load(root)
    contents = np.array(data.train.source.file_digests)
    oaks = np.flatnonzero(data.given & (data.train.labels == 1))
    for seed in range(10):
        split = split_of(data, 1.0, 0.4, seed)
        assert len(split.validation) and not set(contents[split.validation]) & set(contents[split.labelled])
        assert len(np.intersect1d(split.validation, oaks)) in (6, 7)  # .4 of 14, and what a pair adds


def test_test_images_that_are_copies_of_training_images_are_left_out_and_said(root, capsys):
    shutil.copy(root / "labelled/oak/a.png", write(root / "test/oak/x.png", 70).with_name("a.png"))
    shutil.copy(root / "unlabelled/e.png", root / "test/oak/e.png")
    (root / "unlabelled/broken.png").write_bytes(b"no image")
    data = heap.load(root)
    assert data.test.ids == ("test/oak/x.png",) and data.groups is None and len(data.train) == 8
    said = capsys.readouterr().err
    assert "2 images for testing are copies of training images; they are left out (skipped.csv), such as test/oak/a.png" in said
    assert "1 unreadable images are left out" in said
    assert [one.reason for one in data.skipped][1:] == [
        "a copy of labelled/oak/a.png, which is trained on",
        "a copy of unlabelled/e.png, which is trained on",
    ]


def test_an_image_labelled_twice_is_refused_where_the_labels_differ_and_kept_where_they_agree(root):
    shutil.copy(root / "labelled/oak/a.png", root / "labelled/oak/again.png")
    assert len(heap.load(root).train) == 9
    shutil.copy(root / "labelled/oak/a.png", root / "labelled/elm/wrong.png")
    line = refused(lambda: heap.load(root))
    assert "labelled with two classes: labelled/elm/wrong.png (elm) and labelled/oak/a.png (oak)" in line
    for i in range(6):
        shutil.copy(root / "labelled/oak/a.png", root / f"labelled/oak/more{i}.png")
    assert " and 3 more pairs; keep one of each" in refused(lambda: heap.load(root))


def test_a_class_of_one_image_and_a_small_heap_are_said(root, capsys):
    write(root / "labelled/ash/z.png", 40)
    heap.load(root)
    lines = capsys.readouterr().err.splitlines()
    assert any("one labelled image only of ash" in line for line in lines)
    assert any("fewer unlabelled images (4) than labelled ones (5)" in line for line in lines)
    split = split_of(heap.load(root), 1.0, 0.9, 1)
    assert set(split.labelled.tolist()) >= {0} and len(split.labelled) == 3 and len(split.validation) == 2  # each class keeps one


def test_classes_that_differ_by_letter_case_only_are_said(root, capsys):
    for i, name in enumerate(("Oak", "OAK", "Elm", "Straße", "STRASSE", *(f"{case}{n}" for n in range(4) for case in "Aa"))):
        write(root / f"labelled/{name}/x.png", 100 + i)
    heap.load(root)
    lines = [line for line in capsys.readouterr().err.splitlines() if "letter case" in line]
    assert lines == [f"taxon: {root}: classes that differ by letter case only: A0, a0; A1, a1; A2, a2; A3, a3; Elm, elm; ..."]


def test_of_many_classes_of_one_image_the_first_are_named(root, capsys):
    for i in range(7):
        write(root / f"labelled/class {i}/z.png", 40 + i)
    heap.load(root)
    assert "one labelled image only of class 0, class 1, class 2, class 3, class 4, ...: it trains" in capsys.readouterr().err


def test_the_first_unlabelled_image_that_cannot_be_read_is_named_whatever_else_cannot(root):
    for path in [root / "labelled/elm/c.png", *(root / "unlabelled").rglob("*.png")]:
        path.write_bytes(b"")
    line = refused(lambda: heap.load(root))
    assert "none of the unlabelled images" in line and f"the first: {root}/unlabelled/" in line and line.endswith("(empty file)")


def test_images_beside_class_folders_and_other_files_are_said(root, capsys):
    write(root / "labelled/loose.png", 44)
    (root / "labelled/oak/notes.txt").write_text("none")
    heap.load(root)
    said = "taxon: leaves/labelled: 1 image in no class folder ignored; elm: 1 image in folders inside it; oak: 1 file ignored (.txt 1)"
    assert said in capsys.readouterr().err


def test_nothing_is_said_of_a_heap_that_is_as_it_should_be(root, capsys):
    shutil.rmtree(root / "labelled/elm/old")
    write(root / "labelled/elm/d.png", 3)
    heap.load(root)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["labeled", "Labelled", "labled", "LABELLED ", "label"])
@pytest.mark.parametrize("part", ["labelled", "unlabelled", "test"])
def test_a_folder_that_is_a_part_but_for_its_spelling_is_refused(root, part, name):
    wrong = name.replace("lab", "unlab").replace("Lab", "Unlab").replace("LAB", "UNLAB") if part == "unlabelled" else name
    wrong = "Tests" if part == "test" else wrong
    write(root / "test/oak/x.png", 60)
    (root / part).rename(root / wrong)
    said = f"{root} has a folder '{wrong}' and none called '{part}'; did you mean '{part}'? rename it so, or move it away"
    assert refused(lambda: heap.load(root)) == said


def test_two_parts_in_another_spelling_are_no_heap_and_one_is_named(root):
    (root / "labelled").rename(root / "labeled")
    (root / "unlabelled").rename(root / "unlabeled")
    assert "no data set that is known; is its folder 'labeled' meant to be 'labelled'?; exp" in refused(
        lambda: catalog.recognised(str(root))
    )


def test_what_lies_beside_the_parts_is_said_in_one_line(root, capsys):
    shutil.rmtree(root / "labelled/elm/old")
    write(root / "labelled/elm/d.png", 3)
    for i, name in enumerate(("loose", "more", "labeled/oak/x", "unlabelled 2/y", "rest/z", "train/oak/z", ".hidden/z")):
        write(root / f"{name}.png", 80 + i)
    (root / "notes.txt").write_text("none")
    assert len(heap.load(root).train) == 8
    said = "2 images and 4 folders (labeled, rest, train, unlabelled 2) beside labelled, unlabelled, test take no part"
    assert capsys.readouterr().err == f"taxon: leaves: {said}\n"


def test_a_part_by_another_name_is_nothing_beside_it(root, capsys):
    """As on a system that takes `Labelled` for `labelled`."""
    (root / "Labelled").symlink_to(root / "labelled")
    heap.load(root)
    assert "take no part" not in capsys.readouterr().err


@pytest.mark.parametrize("bad_images", ["auto", "skip"])
def test_unreadable_images_are_left_out_with_their_reason(root, bad_images, capsys):
    (root / "unlabelled/broken.png").write_bytes(b"no image")
    (root / "labelled/oak/empty.jpg").write_bytes(b"")
    data = heap.load(root, bad_images=bad_images)
    assert len(data.train) == 8
    assert [(Path(one.path).name, one.reason) for one in data.skipped] == [("empty.jpg", "empty file"), ("broken.png", "unknown format")]
    assert "2 unreadable images are left out (skipped.csv)" in capsys.readouterr().err


def test_unreadable_images_end_the_run_where_that_is_asked_for(root):
    (root / "unlabelled/broken.png").write_bytes(b"no image")
    assert "broken.png: not a readable image" in refused(lambda: heap.load(root, bad_images="refuse"))


@pytest.mark.parametrize("broken", ["unlabelled", "labelled/oak"])
def test_a_part_or_a_class_of_which_nothing_can_be_read_is_refused(root, broken):
    for path in (root / broken).rglob("*.png"):
        path.write_bytes(b"no image")
    line = refused(lambda: heap.load(root))
    assert ("none of the unlabelled images" if broken == "unlabelled" else "no image of the labelled class 'oak'") in line


@pytest.mark.parametrize("how", ["absent", "empty", "texts"])
def test_an_empty_heap_is_refused(root, how):
    shutil.rmtree(root / "unlabelled")
    if how != "absent":
        (root / "unlabelled" / "monday").mkdir(parents=True)
    if how == "texts":
        (root / "unlabelled" / "monday" / "readme.txt").write_text("none")
    assert "unlabelled holds no image" in refused(lambda: heap.load(root))


def test_files_that_are_no_images_are_counted_and_those_of_phones_explained(root, capsys):
    (root / "unlabelled/notes.txt").write_text("none")
    (root / "unlabelled/monday/photo.HEIC").write_bytes(b"photo")
    heap.load(root)
    assert "leaves/unlabelled: 2 files ignored (.heic 1, .txt 1; HEIC cannot be read: save such photos as JPEG)" in capsys.readouterr().err
    for path in (root / "unlabelled").rglob("*.png"):
        path.unlink()
    assert "holds no image (.jpg, .jpeg, .png, .bmp, .webp, ...), only other files (.heic 1, .txt 1;" in refused(lambda: heap.load(root))


def test_a_pipe_that_is_called_like_an_image_is_left_out(root, capsys):
    os.mkfifo(root / "unlabelled/x.png")
    assert len(heap.load(root).train) == 8
    assert "leaves/unlabelled: 1 files ignored (pipes, sockets and devices 1)" in capsys.readouterr().err


def test_an_empty_class_and_novel_classes_are_refused(root):
    (root / "labelled/ash").mkdir()
    assert "ash holds no image" in refused(lambda: heap.load(root))
    assert "its novel classes are unknown; leave novel_classes out" in refused(lambda: heap.load(root, novel_classes="elm"))


@pytest.mark.parametrize("name", ["None", "NA", "null", "nan", " NaN ", "N\u200bA"])
@pytest.mark.parametrize("part", ["labelled", "test"])
def test_a_class_that_a_table_would_read_as_no_label_is_refused(root, part, name):
    write(root / part / name / "x.png", 60)
    if name == "N\u200bA":
        assert name in heap.load(root).class_names
        return
    said = f"/{part}/{name.strip()}: '{name.strip()}' stands for a missing value in tables and can be no class's name; rename the folder"
    assert said in refused(lambda: heap.load(root))


def test_a_class_whose_name_is_no_text_is_refused_and_blanks_are_one(root):
    write(root / "labelled/red  oak/x.png", 61)
    assert heap.load(root).class_names == ("elm", "oak", "red oak")
    write(root / "labelled/a\x07/x.png", 62)
    assert r"the class 'a\x07' holds characters that are no text; rename the folder" in refused(lambda: heap.load(root))


@pytest.mark.parametrize("what", ["file", "folder", "part", "class"])
def test_a_link_out_of_the_root_is_refused_unless_it_may(root, tmp_path, what):
    outside = write(tmp_path / "outside" / "x.png", 50).parent
    place = {"file": "unlabelled/l.png", "folder": "unlabelled/monday/l", "part": "unlabelled", "class": "labelled/ash"}[what]
    if what == "part":
        shutil.rmtree(root / "unlabelled")
    (root / place).symlink_to(outside / "x.png" if what == "file" else outside)
    assert "is a link that leads out of" in refused(lambda: heap.load(root))
    ids = heap.load(root, follow_links=True).train.ids
    assert f"{place}/x.png" in ids or place in ids


def test_links_in_a_circle_end_and_each_file_is_read_once(root):
    (root / "unlabelled/monday/up").symlink_to(root / "unlabelled")
    (root / "unlabelled/again").symlink_to(root / "unlabelled/monday")
    (root / "unlabelled/one more.png").symlink_to(root / "unlabelled/e.png")
    data = heap.load(root, follow_links=True)
    files = [path.resolve() for path in data.train.source.paths]
    assert len(files) == len(set(files)) == 8


def test_a_link_to_itself_is_refused_in_one_line(root):
    (root / "unlabelled/self.png").symlink_to(root / "unlabelled/self.png")
    assert "self.png is a link that leads to itself: remove it" in refused(lambda: heap.load(root))


def test_a_link_to_nothing_is_an_unreadable_image(root):
    (root / "unlabelled/gone.png").symlink_to(root / "unlabelled/nothing.png")
    assert [Path(one.path).name for one in heap.load(root).skipped] == ["gone.png"]
