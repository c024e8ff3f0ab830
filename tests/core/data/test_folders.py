from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.data import catalog, folders
from core.errors import UserError
from tests.core.stages.tiny import refused

CROPS = Path(__file__).resolve().parents[4] / "shared" / "data" / "crop_disease"


def picture(path: Path, value: int = 100, size: tuple[int, int] = (6, 5), kind: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path, kind)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "pets"
    picture(root / "train" / "dog" / "b.png", 1)
    picture(root / "train" / "dog" / "a.JPG", 2, (9, 7))
    picture(root / "train" / "cat" / "a.bmp", 3)
    picture(root / "test" / "dog" / "a.webp", 4)
    return root


def test_classes_and_files_are_sorted_and_ids_name_the_file(root):
    data = folders.load(root, "dog")
    assert data.name == "folder/pets" and data.class_names == ("cat", "dog")
    assert data.train.ids == ("train/cat/a.bmp", "train/dog/a.JPG", "train/dog/b.png")
    assert data.train.labels.tolist() == [0, 1, 1] and data.test.labels.tolist() == [1]
    assert data.known_classes == {0}
    assert [image.shape for image in data.train.source.load(np.array([1, 2]))] == [(7, 9, 3), (5, 6, 3)]


def test_no_novel_class_and_no_test_part_are_fine(root):
    (root / "test" / "dog" / "a.webp").unlink()
    (root / "test" / "dog").rmdir()
    (root / "test").rmdir()
    data = folders.load(root)
    assert not data.novel_classes and len(data.test) == 0 and len(data.digest) == 64


def test_hidden_files_change_nothing_and_what_is_left_out_is_said(root, capsys):
    before = folders.load(root).digest
    picture(root / "train" / "dog" / ".hidden.png")
    picture(root / "train" / ".cache" / "x.png")
    (root / "train" / "dog" / "notes.txt").write_text("no image")
    assert folders.load(root).digest == before
    assert capsys.readouterr().err == "taxon: pets/train: dog: 1 file ignored (.txt 1)\n"


def test_images_in_folders_inside_a_class_belong_to_it(root):
    picture(root / "train" / "dog" / "images" / "a.JPG")
    data = folders.load(root)
    assert data.train.ids == ("train/cat/a.bmp", "train/dog/a.JPG", "train/dog/b.png", "train/dog/images/a.JPG")
    assert data.train.labels.tolist() == [0, 1, 1, 1]


def test_a_test_class_that_train_lacks_is_refused(root):
    picture(root / "test" / "dogs" / "a.png")
    with pytest.raises(UserError, match="'dogs' has no folder in train; did you mean 'dog'"):
        folders.load(root)


def test_an_empty_class_is_refused(root):
    (root / "train" / "emu").mkdir()
    with pytest.raises(UserError, match="emu holds no image"):
        folders.load(root)


@pytest.mark.parametrize("where", ["", "nowhere"])
def test_a_missing_root_says_what_is_expected(tmp_path, where):
    with pytest.raises(UserError, match="not a folder; expected"):
        folders.load(str(tmp_path / where) if where else "")


def test_images_in_no_class_folder_and_parts_in_parts_are_said(root, capsys):
    picture(root / "test" / "loose.png")
    folders.load(root)
    assert capsys.readouterr().err == "taxon: pets/test: 1 image in no class folder ignored\n"
    picture(root / "other" / "train" / "val" / "dog" / "a.png")
    assert "are parts of a data set (val), not classes" in refused(lambda: folders.load(root / "other"))


def test_a_root_without_train_says_what_is_expected(tmp_path):
    with pytest.raises(UserError, match="no class folder"):
        folders.load(tmp_path)


def test_an_unknown_novel_class_is_answered_with_the_nearest(root):
    with pytest.raises(UserError, match="did you mean 'cat'"):
        folders.load(root, "cta")


@pytest.mark.parametrize("what", ["file", "class", "part"])
def test_links_that_lead_out_are_refused(root, tmp_path, what):
    picture(tmp_path / "outside" / "emu" / "secret.png")
    if what == "file":
        (root / "train" / "dog" / "c.png").symlink_to(tmp_path / "outside" / "emu" / "secret.png")
    elif what == "class":
        (root / "train" / "emu").symlink_to(tmp_path / "outside" / "emu")
    else:
        (root / "train").rename(root / "kept")
        (root / "train").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="leads out of"):
        folders.load(root)


@pytest.mark.parametrize("what", ["file", "class", "part"])
def test_links_may_lead_out_where_that_is_allowed(root, tmp_path, what):
    picture(tmp_path / "outside" / "emu" / "far.png")
    place = {"file": "train/dog/c.png", "class": "train/emu", "part": "test"}[what]
    if what == "part":
        (root / "test").rename(tmp_path / "outside" / "dog")
        (tmp_path / "outside" / "emu" / "far.png").rename(tmp_path / "outside" / "dog" / "far.png")
        (tmp_path / "outside" / "emu").rmdir()
    (root / place).symlink_to(tmp_path / "outside" / {"file": "emu/far.png", "class": "emu", "part": ""}[what])
    line = refused(lambda: catalog.load("folder", str(root), "", "", False))
    assert "is a link that leads out of" in line and "or give follow_links=true" in line
    data = catalog.load("folder", str(root), "", "", False, follow_links=True)
    wanted = {"file": "train/dog/c.png", "class": "train/emu/far.png", "part": "test/dog/far.png"}[what]
    assert wanted in (*data.train.ids, *data.test.ids)


@pytest.mark.parametrize("bad_images", ["skip", "refuse", "auto"])
def test_unreadable_images_are_left_out_where_that_is_asked_for(root, bad_images, capsys):
    whole = folders.load(root)
    assert folders.load(root, bad_images=bad_images, follow_links=True).digest == whole.digest and not whole.skipped
    (root / "train/dog/broken.png").write_bytes(b"no image")
    (root / "test/dog/empty.png").write_bytes(b"")
    if bad_images != "skip":
        line = refused(lambda: catalog.load("folder", str(root), "", "", False, bad_images=bad_images))
        assert "broken.png: not a readable image" in line
        return
    data = catalog.load("folder", str(root), "", "", False, bad_images=bad_images)
    assert data.digest == whole.digest and data.train.ids == whole.train.ids
    assert [(Path(one.path).name, one.reason) for one in data.skipped] == [("broken.png", "unknown format"), ("empty.png", "empty file")]
    assert "taxon: pets: 2 unreadable images are left out (skipped.csv), such as " in capsys.readouterr().err
    (root / "train/cat/a.bmp").write_bytes(b"")
    assert "train/cat can be read; mend them or remove the folder" in refused(lambda: folders.load(root, bad_images="skip"))


def test_links_inside_the_root_and_a_linked_root_are_fine(root, tmp_path):
    (root / "train" / "dog" / "c.png").symlink_to(root / "train" / "dog" / "b.png")
    (tmp_path / "link").symlink_to(root)
    assert len(folders.load(tmp_path / "link").train) == 4


def test_a_name_that_is_no_utf8_is_refused(root):
    try:
        picture(root / "train" / "dog" / "a\udcff.png")
    except OSError:
        pytest.skip("this file system only takes UTF-8 names")
    with pytest.raises(UserError, match="UTF-8"):
        folders.load(root)


@pytest.mark.skipif(not CROPS.is_dir(), reason="needs the crop disease images beside the repository (shared/data/crop_disease)")
def test_real_photos_load():
    data = folders.load(CROPS, "coffee_rust,tomato_leaf_mold")
    assert len(data.class_names) == 15 and len(data.novel_classes) == 2
    assert len(data.train) > 1000 and len(data.test) > 100
