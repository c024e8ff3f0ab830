import pytest

from core.data import class_folders
from core.errors import UserError
from tests.core.data.test_folders import picture


@pytest.fixture
def root(tmp_path):
    for name in ("dog/b.png", "dog/a.JPG", "cat/a.bmp"):
        picture(tmp_path / "train" / name)
    return tmp_path / "train"


def test_classes_and_files_are_sorted_and_named_by_their_folder(root):
    entries = class_folders.read(root, "train_dir")
    assert [(e.label, e.file) for e in entries] == [("cat", "cat/a.bmp"), ("dog", "dog/a.JPG"), ("dog", "dog/b.png")]
    assert [e.path for e in entries] == [root.resolve() / e.file for e in entries]
    assert all(e.source.startswith("train_dir ") and not e.facts for e in entries)


def test_hidden_nested_and_other_files_are_ignored(root):
    before = class_folders.read(root, "train_dir")
    picture(root / "dog" / ".hidden.png")
    picture(root / "dog" / "nested.png" / "x.png")
    picture(root / ".cache" / "x.png")
    (root / "dog" / "notes.txt").write_text("no image")
    (root / "list.csv").write_text("no class")
    assert class_folders.read(root, "train_dir") == before


def test_a_class_without_images_is_refused_where_it_needs_some(root):
    (root / "emu").mkdir()
    with pytest.raises(UserError, match="emu holds no image"):
        class_folders.read(root, "train_dir")
    assert len(class_folders.read(root, "val_dir", may_be_empty=True)) == 3


def test_folders_without_any_image_are_refused(tmp_path):
    (tmp_path / "emu").mkdir()
    with pytest.raises(UserError, match=r"no image .* in any class folder of val_dir"):
        class_folders.read(tmp_path, "val_dir", may_be_empty=True)


@pytest.mark.parametrize(("where", "said"), [("nowhere", "is not a folder"), (".", "no class folder")])
def test_a_folder_that_is_none_or_empty_says_what_is_expected(tmp_path, where, said):
    with pytest.raises(UserError, match=f"{said}.*expected .*/<class>/"):
        class_folders.read(tmp_path / where, "train_dir")


@pytest.mark.parametrize("what", ["file", "class"])
def test_links_that_lead_out_are_refused(root, tmp_path, what):
    picture(tmp_path / "outside" / "secret.png")
    link = root / "dog" / "c.png" if what == "file" else root / "emu"
    link.symlink_to(tmp_path / "outside" / "secret.png" if what == "file" else tmp_path / "outside")
    with pytest.raises(UserError, match="leads out of"):
        class_folders.read(root, "train_dir")


def test_a_name_that_is_no_utf8_is_refused(root):
    try:
        picture(root / "dog" / "a\udcff.png")
    except OSError:
        pytest.skip("this file system only takes UTF-8 names")
    with pytest.raises(UserError, match="UTF-8"):
        class_folders.read(root, "train_dir")
