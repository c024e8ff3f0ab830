import errno
import os
import socket

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


def test_hidden_files_are_not_looked_at(root, capsys):
    before = class_folders.read(root, "train_dir")
    picture(root / "dog" / ".hidden.png")
    picture(root / "dog" / "__MACOSX" / "a.png")
    picture(root / ".cache" / "x.png")
    (root / "dog" / "Thumbs.db").write_bytes(b"x")
    (root / "list.csv").write_text("no class")
    assert class_folders.read(root, "train_dir") == before
    assert capsys.readouterr().err == ""


def test_images_in_folders_inside_a_class_and_of_other_kinds_are_read(root, capsys):
    for name in ("images/deep.png", "images/a.JPG", "more/and/more.gif", "nested.png/x.png"):
        picture(root / "dog" / name)
    for name in ("x.jfif", "x.JFIF", "x.tif", "x.tiff", "x.gif", "x.avif"):
        picture(root / "dog" / name, kind="JPEG" if "j" in name.lower() else None)
    entries = class_folders.read(root, "train_dir")
    dogs = [entry.file for entry in entries if entry.label == "dog"]
    assert len(dogs) == len(set(dogs)) == 12 and "dog/more/and/more.gif" in dogs
    assert all(entry.path == root.resolve() / entry.file for entry in entries)
    assert capsys.readouterr().err == "taxon: train_dir: dog: 4 images in folders inside it\n"


def test_what_is_left_out_is_counted_and_said_in_one_line(root, tmp_path, capsys):
    for name in ("notes.txt", "more.TXT", "README", "a.xml"):
        (root / "dog" / name).write_text("no image")
    picture(root / "loose.png")
    (root / "dog" / "again").symlink_to(root / "cat")
    class_folders.read(root, "val_dir")
    said = "1 image in no class folder ignored; dog: 5 files ignored (no extension 1, .txt 2, .xml 1, links 1)"
    assert capsys.readouterr().err == f"taxon: val_dir: {said}\n"


@pytest.mark.parametrize("how", ["pipe", "link", "socket"])
def test_what_is_no_file_is_no_image_and_never_opened(root, monkeypatch, capsys, how):
    monkeypatch.chdir(root / "dog")  # a socket's address is short
    if how == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("c.png")
    else:
        os.mkfifo(root / "dog" / "c.png" if how == "pipe" else root / "pipe")
    if how == "link":
        (root / "dog" / "c.png").symlink_to(root / "pipe")
    assert [entry.path.name for entry in class_folders.read(root, "train_dir")] == ["a.bmp", "a.JPG", "b.png"]
    assert capsys.readouterr().err == "taxon: train_dir: dog: 1 file ignored (pipes, sockets and devices 1)\n"


def test_of_many_classes_with_other_files_the_first_are_named(root, capsys):
    for i in range(7):
        picture(root / f"more {i}" / "in" / "a.png")
    class_folders.read(root, "val_dir")
    said = capsys.readouterr().err
    assert "more 4: 1 image in folders inside it; and so on in 2 more classes" in said and said.count("\n") == 1


def test_a_class_without_a_name_and_a_link_to_itself_are_refused(root):
    (root / "dog" / "self.png").symlink_to(root / "dog" / "self.png")
    with pytest.raises(UserError, match=r"self.png is a link that leads to itself: remove it"):
        class_folders.read(root, "train_dir")
    (root / "dog" / "self.png").unlink()
    picture(root / "  " / "a.png")
    with pytest.raises(UserError, match="class '' has another folder beside it, or no name"):
        class_folders.read(root, "train_dir")


def test_a_folder_that_leads_to_itself_ends(root):
    (root / "dog" / "loop").symlink_to(root / "dog")
    assert len(class_folders.read(root, "train_dir")) == 3


def test_a_folder_inside_a_class_that_leads_out_is_refused(root, tmp_path):
    picture(tmp_path / "outside" / "secret.png")
    (root / "dog" / "more").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="leads out of"):
        class_folders.read(root, "train_dir")


def test_the_parts_of_a_data_set_are_no_classes(root):
    picture(root.parent / "val" / "dog" / "a.png")
    with pytest.raises(UserError, match=r"are parts of a data set \(train, val\), not classes"):
        class_folders.read(root.parent, "train_dir")


def test_one_class_in_two_spellings_is_one_class_across_folders_and_refused_in_one(root, tmp_path):
    picture(root / "cafe\u0301 " / "a.png")
    picture(tmp_path / "val" / "caf\u00e9" / "a.png")
    names = [{e.label for e in class_folders.read(folder, "x")} for folder in (root, tmp_path / "val")]
    assert names[1] == {"caf\u00e9"} <= names[0]
    picture(root / "caf\u00e9" / "b.png")
    with pytest.raises(UserError, match="class 'caf\u00e9' has another folder"):
        class_folders.read(root, "train_dir")


def test_a_folder_whose_name_differs_in_what_has_no_width_is_no_class_of_its_own(root):
    picture(root / "dog\u200b" / "a.png")
    with pytest.raises(UserError, match="class 'dog' has another folder beside it"):
        class_folders.read(root, "train_dir")


def test_folders_that_differ_in_blanks_alone_are_one_class(root):
    picture(root / "red  oak" / "a.png")
    assert {e.label for e in class_folders.read(root, "train_dir")} == {"cat", "dog", "red oak"}
    picture(root / "red oak" / "b.png")
    with pytest.raises(UserError, match="class 'red oak' has another folder beside it, or no name: blanks, composed letters and what has"):
        class_folders.read(root, "train_dir")


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


@pytest.mark.parametrize("where", [".", "dog", "dog/more"])
@pytest.mark.parametrize("call", ["listdir", "lstat"])
def test_a_folder_that_may_not_be_read_is_one_line(root, monkeypatch, where, call):
    """Listing fails without the right to read a folder, what is in it without the right to enter it."""
    picture(root / "dog" / "more" / "x.png")
    closed = str((root / where).resolve())
    real = getattr(os, call)

    def guarded(path, **options):
        if closed == (str(path) if call == "listdir" else os.path.dirname(path)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(os, call, guarded)
    with pytest.raises(UserError) as error:
        class_folders.read(root, "train_dir")
    assert str(error.value) == f"{closed} cannot be read (Permission denied): allow it to be read and entered, or move it away"
