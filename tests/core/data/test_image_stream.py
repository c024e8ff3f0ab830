"""Listing images from any folder or table, without holding them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.data import image_stream, image_table
from core.errors import UserError
from tests.core.stages.tiny import refused


def place(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_a_folder_gives_what_lies_anywhere_below_it_in_order_each_time(tmp_path):
    place(tmp_path, "b/2.png", "b/10.JPG", "a/deep/er/x.webp", "top.bmp", "notes.txt", ".hidden/x.png")
    images = image_stream.of_folder(str(tmp_path))
    wanted = ["a/deep/er/x.webp", "b/10.JPG", "b/2.png", "top.bmp"]
    assert [one.id for one in images] == wanted and [one.id for one in images] == wanted and images.count == 4
    assert {(one.label, one.part) for one in images} == {("", "new")}
    before = images.digest
    (tmp_path / "top.bmp").write_bytes(b"another size")
    assert image_stream.of_folder(str(tmp_path)).digest != before


def test_a_heap_s_parts_and_labels_are_told(tmp_path):
    place(tmp_path, "labelled/oak/1.png", "unlabelled/monday/2.png", "test/elm/in/3.png")
    found = {one.id: (one.label, one.part) for one in image_stream.of_folder(str(tmp_path))}
    assert found["labelled/oak/1.png"] == ("oak", "labelled") and found["test/elm/in/3.png"] == ("elm", "test")
    assert found["unlabelled/monday/2.png"] == ("", "unlabelled")


def test_links_stay_inside_unless_they_may_not(tmp_path):
    place(tmp_path, "outside/far.png", "root/1.png")
    (tmp_path / "root" / "link.png").symlink_to(tmp_path / "outside" / "far.png")
    assert "leads out of" in refused(lambda: image_stream.of_folder(str(tmp_path / "root")))
    assert [one.id for one in image_stream.of_folder(str(tmp_path / "root"), follow_links=True)] == ["1.png", "link.png"]


def test_without_images_there_is_one_line(tmp_path):
    assert "holds no image" in refused(lambda: image_stream.of_folder(str(place(tmp_path / "empty", "a.txt"))))
    assert "is not a folder" in refused(lambda: image_stream.of_folder(str(tmp_path / "absent")))
    assert "no such user" in refused(lambda: image_stream.of_folder("~nobody there/x"))


def test_what_would_be_read_for_ever_is_refused(tmp_path):
    os.mkfifo(place(tmp_path, "1.png") / "2.png")
    assert "2.png: not a readable image (a pipe, socket or device)" in refused(lambda: image_stream.of_folder(str(tmp_path)))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_table_is_read_as_people_save_it(tmp_path, separator, encoding):
    place(tmp_path, "a b.png", "ü,;.png", "c.png")
    rows = [["Path", "label"], ["a b.png", "oak"], ['"ü,;.png"', ""], ["", ""], [str(tmp_path / "c.png"), "elm"]]
    text = "\r\n".join(separator.join(row) for row in rows)
    (tmp_path / "images.csv").write_bytes(text.encode(encoding))
    found = list(image_stream.of_table(str(tmp_path / "images.csv")))
    assert [(one.path.name, one.label) for one in found] == [("a b.png", "oak"), ("ü,;.png", ""), ("c.png", "elm")]
    assert found[0].path == tmp_path / "a b.png" and found[0].id == "a b.png"


def test_a_table_s_paths_start_from_data_root_and_all_that_are_missing_are_named(tmp_path):
    place(tmp_path / "images", "1.png")
    (tmp_path / "t.csv").write_text("path\n1.png\n2.png\nsub/3.png\n")
    with pytest.raises(UserError) as error:
        image_stream.of_table(str(tmp_path / "t.csv"), str(tmp_path / "images"))
    assert "2.png" in str(error.value) and "sub/3.png" in str(error.value) and "2 of 3" in str(error.value)
    (tmp_path / "t.csv").write_text("path\n1.png\n")
    assert image_stream.of_table(str(tmp_path / "t.csv"), str(tmp_path / "images")).count == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"file,label\n1.png,a\n", "no column path"),
        (b"", "no column path"),
        (b"path,label\n,oak\n", "cell of path is empty"),
        (b'path\n"1.png\n', "is no table"),
        (b"path\n", "holds no"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(tmp_path, content, said):
    (tmp_path / "t.csv").write_bytes(content)
    assert said in refused(lambda: image_stream.of_table(str(tmp_path / "t.csv")))


def test_an_absent_table_is_named(tmp_path):
    assert "absent.csv" in refused(lambda: image_stream.of_table(str(tmp_path / "absent.csv")))


def test_a_table_is_read_as_that_of_a_heap_is(tmp_path, capsys):
    """Spellings, other slashes, cells that stand for a missing value, commas at the end; a path that no file can have names its line."""
    place(tmp_path, "day/a.png", "b.png")
    (tmp_path / "t.csv").write_text("path,label\nday\\a.png,red  oak,\n./b.png,NA,\n")
    assert [(one.id, one.label) for one in image_stream.of_table(str(tmp_path / "t.csv"))] == [("day/a.png", "red oak"), ("b.png", "")]
    assert "(label 'NA' 1)" in (said := capsys.readouterr().err) and said.count("\n") == 1
    (tmp_path / "t.csv").write_text(f"path,label\nb.png,oak\n{'x' * 300}.png,oak\n")
    assert "line 3: 'xxx" in refused(lambda: image_stream.of_table(str(tmp_path / "t.csv")))
    (tmp_path / "t.csv").write_text("path,label\nb.png,oak,elm\n")
    assert "line 2 has 3 cells" in refused(lambda: image_stream.of_table(str(tmp_path / "t.csv")))


def test_paths_of_a_table_that_are_folders_lead_out_or_start_nowhere_are_refused(tmp_path):
    place(tmp_path, "root/day/a.png", "far.png")
    (tmp_path / "root/t.csv").write_text("path\nday\n")
    assert "day: not a readable image (a folder)" in refused(lambda: image_stream.of_table(str(tmp_path / "root/t.csv")))
    (tmp_path / "root/t.csv").write_text("path\n../far.png\n")
    assert "line 2: ../far.png leads out of" in refused(lambda: image_stream.of_table(str(tmp_path / "root/t.csv")))
    assert image_stream.of_table(str(tmp_path / "root/t.csv"), follow_links=True).count == 1
    assert "data_root 'nowhere', below which" in refused(lambda: image_stream.of_table(str(tmp_path / "root/t.csv"), "nowhere"))


def test_a_link_to_nothing_or_to_itself_is_said(tmp_path):
    place(tmp_path, "root/a.png")
    (tmp_path / "root/gone.png").symlink_to(tmp_path / "root/nothing.png")
    assert "gone.png: not a readable image (no such file or directory)" in refused(lambda: image_stream.of_folder(str(tmp_path / "root")))
    (tmp_path / "root/gone.png").unlink()
    (tmp_path / "root/self.png").symlink_to(tmp_path / "root/self.png")
    assert "self.png is a link that leads to itself: remove it" in refused(lambda: image_stream.of_folder(str(tmp_path / "root")))


def test_splits_and_groups_of_a_table_are_told(tmp_path):
    place(tmp_path, *(f"{i}.png" for i in range(5)))
    (tmp_path / "t.csv").write_text(
        "path,label,split,group\n0.png,oak,TEST,g1\n1.png,oak,train,g2\n2.png,,,\n3.png,elm,val,\n4.png,,test,\n"
    )
    found = {one.id: (one.label, one.part, one.group) for one in image_stream.of_table(str(tmp_path / "t.csv"))}
    assert found == {
        "0.png": ("oak", "test", "g1"),
        "1.png": ("oak", "new", "g2"),
        "2.png": ("", "new", ""),
        "3.png": ("elm", "val", ""),
        "4.png": ("", "test", ""),
    }


@pytest.mark.parametrize("rows", ["0.png,oak,tset,\n", "0.png,,val,\n", "0.png,oak,,a\n0.png,elm,test,b\n"])
def test_what_a_heap_s_table_may_not_say_is_refused_in_the_same_line(tmp_path, rows):
    place(tmp_path, "0.png", "1.png")
    (tmp_path / "t.csv").write_text(f"path,label,split,group\n1.png,,,\n{rows}")
    said = [refused(lambda read=read: read(str(tmp_path / "t.csv"), "")) for read in (image_stream.of_table, image_table.load)]
    assert said[0] == said[1] and str(tmp_path / "t.csv") in said[0]


def test_an_image_that_is_listed_twice_counts_once_and_that_is_said(tmp_path, capsys):
    place(tmp_path, "0.png", "1.png")
    (tmp_path / "t.csv").write_text("path,label\n0.png,oak\n1.png,\n./0.png,oak\n0.png,oak\n")
    images = image_stream.of_table(str(tmp_path / "t.csv"))
    assert images.count == 2 and [one.id for one in images] == [one.id for one in images] == ["0.png", "1.png"]
    assert capsys.readouterr().err == f"taxon: {tmp_path / 't.csv'}: 2 lines repeat an image and are passed over\n"
