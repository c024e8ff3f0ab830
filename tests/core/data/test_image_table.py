"""A table of images is read as people write it, and a truth in it changes nothing but the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from core.data import catalog, image_table
from core.data.problem import pose
from core.data.splits import split_of
from core.errors import UserError

NAMES = tuple(f"day {i % 3}/bild ü{i:02d}.png" for i in range(12))
LABELS = ("oak", "elm", "oak", "elm", "", "", "", "", "", "", "", "")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Return a folder of twelve different images."""
    folder = tmp_path_factory.mktemp("table")
    for i, name in enumerate(NAMES):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), 20 * i, np.uint8)).save(folder / name)
    return folder


def table(root: Path, rows: list[str], header: str = "path,label", file: str = "list.csv", encoding: str = "utf-8") -> str:
    (root / file).write_bytes("\n".join([header, *rows]).encode(encoding))
    return str(root / file)


def plain_rows(labels: tuple[str, ...] = LABELS) -> list[str]:
    return [f"{name},{label}" for name, label in zip(NAMES, labels, strict=True)]


def refusal(*args, **options) -> str:
    with pytest.raises(UserError) as error:
        image_table.load(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_separators_and_line_ends_say_the_same(root, encoding, mark, end):
    rows = [f'"{name}"{mark} {label} ' for name, label in zip(NAMES, LABELS, strict=True)]
    (root / "other.csv").write_bytes(end.join([f"PATH{mark}Label", *rows, ""]).encode(encoding))
    data = image_table.load(str(root / "other.csv"), "data")
    assert data.train.ids == NAMES and data.class_names == ("elm", "oak") and data.name == "folder/other"
    assert [data.class_names[c] if c >= 0 else "" for c in data.train.labels] == list(LABELS)
    assert data.given.tolist() == [bool(label) for label in LABELS]


@pytest.mark.parametrize(
    ("encoding", "first", "second"),
    [("gb18030", "咖啡叶锈病", "玉米叶枯病"), ("cp1251", "берёза", "осина"), ("cp1252", "Weißbirke", "Löwenzahn")],
)
def test_a_table_of_another_script_is_read_as_what_it_looks_like(root, capsys, encoding, first, second):
    """Spreadsheets save names in the encoding of their country; which one it was is guessed, and said."""
    rows = [f"{name.replace('ü', 'u')},{ {'oak': first, 'elm': second}.get(label, '') }" for name, label in zip(NAMES, LABELS, strict=True)]
    for name in NAMES:
        (root / name.replace("ü", "u")).write_bytes((root / name).read_bytes())
    data = image_table.load(table(root, rows, file=f"{encoding}.csv", encoding=encoding), "data")
    assert set(data.class_names) == {first, second}
    assert f"{encoding}.csv is neither UTF-8 nor marked" in capsys.readouterr().err


def test_the_catalog_takes_a_table_for_images_of_ones_own(root):
    file = table(root, plain_rows())
    assert catalog.load("folder", "data", "", "", False, file).train.ids == NAMES
    with pytest.raises(UserError, match="dataset = digits; leave one of them out"):
        catalog.load("digits", "data", "", "", False, file)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["", "oak", "elm", "ash", "zelkova"]), min_size=8, max_size=8))
def test_a_truth_changes_the_truth_alone(root, truth):
    """With, without and with any wrong truth: ids, known classes, split and digests are equal."""
    without = image_table.load(table(root, plain_rows()), "data")
    rows = [f"{row},{said}" for row, said in zip(plain_rows(), ["", "", "", "", *truth], strict=True)]
    told = image_table.load(table(root, rows, "path,label,truth", "truth.csv"), "data")
    one, other = (pose(data, split_of(data, 1.0, 0.5, 1)) for data in (without, told))
    assert one.data.digest == other.data.digest and one.split.digest == other.split.digest and one.data.train.ids == other.data.train.ids
    assert one.data.known_names == other.data.known_names == ("elm", "oak")
    assert [other.truth.class_names[c] if c >= 0 else "" for c in other.truth.train[4:]] == truth


def test_groups_and_splits_are_taken_over(root):
    splits = ["val", "", "train", "", "", "", "", "", "", "", "TEST", "test"]
    rows = [f"{row},g{i // 4},{split}" for i, (row, split) in enumerate(zip(plain_rows(), splits, strict=True))]
    rows[0] = rows[0].replace(",g0,", ",g9,")  # no group is both val and train
    rows[8:10] = [row.replace(",g2,", ",,") for row in rows[8:10]]
    data = image_table.load(table(root, rows, "path,label,group,split"), "data")
    assert data.test.ids == NAMES[10:] and data.groups.tolist() == [0] + [1] * 3 + [2] * 4 + [11, 12]
    assert data.held_out.tolist() == [True] + [False] * 9
    split = split_of(data, 1.0, 0.5, 1)
    assert split.validation.tolist() == [0] and split.labelled.tolist() == [1, 2, 3]


def test_labels_that_count_as_novel_become_truth(root):
    labels = ("oak", "elm", "ash", "elm", *LABELS[4:])
    data = image_table.load(table(root, plain_rows(labels)), "data", novel_classes="ash")
    assert data.class_names == ("elm", "oak", "ash") and data.known_classes == {0, 1}
    assert not data.given[2] and data.train.labels[2] == 2
    assert "there is no class 'asp'; did you mean 'ash'?" in refusal(table(root, plain_rows(labels)), "data", novel_classes="asp")


def test_paths_are_below_data_root_where_it_is_given(root, tmp_path):
    file = table(tmp_path, plain_rows())
    assert "12 of 12 files that are not there" in refusal(file, "data") and image_table.load(file, str(root)).train.ids == NAMES
    whole = [f"{root / name},{label}" for name, label in zip(NAMES, LABELS, strict=True)]
    assert image_table.load(table(tmp_path, whole), "data").train.ids == tuple(str(root / name) for name in NAMES)


def below_data(root: Path, place: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (place / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "data" / name).write_bytes((root / name).read_bytes())


def test_images_that_are_below_data_alone_are_read_there_and_that_is_said(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    below_data(root, tmp_path, NAMES)
    file = table(tmp_path, plain_rows())
    data = image_table.load(file, "data")
    assert data.train.ids == NAMES and data.train.source.paths[0] == tmp_path / "data" / NAMES[0]
    assert capsys.readouterr().err == f"taxon: {file}: its images are not beside it; those below ./data are read\n"
    assert "12 of 12 files that are not there" in refusal(file, "")


def test_images_that_are_below_data_in_part_are_missing_beside_the_table(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    below_data(root, tmp_path, NAMES[1:])
    assert f"12 of 12 files that are not there: {tmp_path / NAMES[0]}" in refusal(table(tmp_path, plain_rows()), "data")


def test_images_that_are_others_below_data_are_refused_and_copies_are_not(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    below_data(root, tmp_path, NAMES)
    file = table(root, plain_rows(), file="both.csv")
    assert image_table.load(file, "data").train.source.paths[0] == root / NAMES[0] and capsys.readouterr().err == ""
    (tmp_path / "data" / NAMES[3]).write_bytes((root / NAMES[4]).read_bytes())
    line = refusal(file, "data")
    assert f"{NAMES[3]} is one image beside the table and another below ./data; give data_root=./data, or data_root='{root}'" in line
    assert image_table.load(file, "").train.ids == image_table.load(file, "./data").train.ids == NAMES


def test_files_below_data_that_may_not_be_read_are_not_taken(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    below_data(root, tmp_path, NAMES)
    file = table(root, plain_rows(), file="both.csv")

    def denied(*_files, **_options):
        raise PermissionError

    monkeypatch.setattr(image_table.filecmp, "cmp", denied)
    assert image_table.load(file, "data").train.source.paths[0] == root / NAMES[0]
    (tmp_path / "data" / NAMES[0]).unlink()
    (tmp_path / "data" / NAMES[0]).symlink_to(root / NAMES[0])
    assert image_table.load(file, "data").train.source.paths[0] == root / NAMES[0]


def test_a_path_out_of_the_root_is_refused_unless_links_may_lead_out(root, tmp_path):
    file = table(tmp_path, [f"../{root.name}/{name},{label}" for name, label in zip(NAMES, LABELS, strict=True)])
    (tmp_path.parent / root.name).symlink_to(root) if not (tmp_path.parent / root.name).exists() else None
    assert "follow_links=true" in refusal(file, "data")
    assert len(image_table.load(file, "data", follow_links=True).train) == 12


@pytest.mark.parametrize(
    "header, rows, said",
    [
        ("file,label", ["a,b"], "has no column path"),
        ("paht,label", ["a,b"], "did you mean 'paht'?"),
        ("path,label", [], "lists no image"),
        ("path,label", [",oak"], "line 2: the cell of path is empty"),
        ("path,label,split", [f"{NAMES[0]},oak,vall"], "line 2: split = 'vall' is none of train, val, test; did you mean 'val'?"),
        ("path,label,split", [f"{NAMES[0]},,val"], "split = val needs a label"),
        ("path,label,split", [f'{NAMES[0]},oak,"tr\nain"'], r"line 2: split = 'tr\nain' is none of train, val, test"),
        ("path,group", [f'{NAMES[0]},"g\n1"', f"{NAMES[0]},{'x' * 299}"], rf"(lines 2 and 4: group 'g\n1' and '{'x' * 197}...')"),
        ("path,group,split", [f'{NAMES[0]},"g\n1",test', f'{NAMES[1]},"g\n1",'], r"in train and in test: g\n1 (lines 2 and 4)"),
        ("path,label", ['"a\nb.png",oak'], r"/a\nb.png; mend them or give data_root"),
        ("path,label", [f"{NAMES[0]},oak", f"{NAMES[0]},elm", f"{NAMES[1]},"], "lines 2 and 3: 'oak' and 'elm'"),
        (
            "path,split",
            [f"{NAMES[0]},train", f"{NAMES[0]},test"],
            f"{NAMES[0]} (lines 2 and 3: split 'train' and 'test'); keep one line of each",
        ),
        ("path,group", [f"{NAMES[0]},g", f"{NAMES[1]},", f"{NAMES[0]},"], f"not alike: {NAMES[0]} (lines 2 and 4: group 'g' and ''); keep"),
        ("path,label", [f"{name},{label}" for name in NAMES for label in ("oak", "elm")], " and 7 more; keep one line of each"),
        ("path,label", ["a.png,", "b.png,", f"{NAMES[0]},"], "names 2 of 3 files that are not there"),
        ("path,label", [f"{NAMES[0]},oak"], "labels every image of it"),
        ("path,label,group,split", [f"{NAMES[0]},oak,g,", f"{NAMES[1]},,g,test", f"{NAMES[2]},,,"], "one group in train and in test: g"),
        (
            "path,label,group,split",
            [f"{NAMES[0]},oak,g,val", f"{NAMES[1]},oak,h,", f"{NAMES[2]},oak,g,train", f"{NAMES[3]},,,"],
            "has images of one group in train and in val: g (lines 2 and 4); put each group into one of them",
        ),
        (
            "path,label,group,split",
            [f"{NAMES[0]},oak,g,val", f"{NAMES[1]},,g,", f"{NAMES[2]},oak,h,test", f"{NAMES[3]},elm,h,val"],
            "has images of one group in train and in val: g (lines 2 and 3); put each group into one of them",
        ),
        ("path,label,group,split", [f"{NAMES[0]},oak,g,val", f"{NAMES[2]},oak,g,test"], "one group in val and in test: g (lines 2 and 3)"),
    ],
)
def test_what_a_table_cannot_say_is_one_line(root, header, rows, said):
    assert said in refusal(table(root, rows, header), "data")


def test_a_repeated_line_counts_once_and_is_said(root, capsys):
    data = image_table.load(table(root, [*plain_rows(), plain_rows()[0]]), "data")
    assert data.train.ids == NAMES and "1 lines repeat an image" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["nan", "NaN", "None", "<NA>", "null"])
def test_a_label_that_is_a_missing_value_is_none(root, missing):
    data = image_table.load(table(root, plain_rows((*LABELS[:4], missing, *LABELS[5:]))), "data")
    assert not data.given[4] and data.class_names == ("elm", "oak")


def test_words_that_are_read_as_no_label_are_counted_and_said(root, capsys):
    labels = (*LABELS[:4], "NA", "None", "NA", *LABELS[7:])
    data = image_table.load(table(root, plain_rows(labels)), "data")
    assert data.given.sum() == 4
    said = capsys.readouterr().err
    assert "cells that stand for a missing value are read as empty (label 'NA' 2, label 'None' 1); a class that is called so" in said
    assert said.count("\n") == 1
    image_table.load(table(root, plain_rows()), "data")
    assert capsys.readouterr().err == ""


def test_a_missing_value_is_no_group_and_no_split(root):
    """Images without a group, written as a table with na_rep is, are not one group."""
    rows = [f"{row},{group},NA" for row, group in zip(plain_rows(), ["g", "g", *["NA"] * 10], strict=True)]
    data = image_table.load(table(root, rows, "path,label,group,split"), "data")
    assert len(set(data.groups.tolist())) == 11 and len(data.test) == 0


def test_class_names_are_in_one_spelling_in_columns_and_options(root):
    labels = ("red  oak", "red oak ", "cafe\u0301", "caf\u00e9", *LABELS[4:])
    data = image_table.load(table(root, plain_rows(labels)), "data")
    assert data.class_names == ("caf\u00e9", "red oak")
    novel = image_table.load(table(root, plain_rows(labels)), "data", novel_classes=" red   oak")
    assert novel.class_names == ("caf\u00e9", "red oak") and novel.known_classes == {0}


@pytest.mark.parametrize("header", ["path,label", "path,label,", "path,label,,", "label,path"])
def test_commas_at_the_end_of_every_row_shift_nothing(root, header):
    cells = zip(NAMES, LABELS, strict=True)
    rows = [f"{label},{name},,," if header.startswith("label") else f"{name},{label},,," for name, label in cells]
    data = image_table.load(table(root, rows, header), "data")
    assert data.train.ids == NAMES and data.class_names == ("elm", "oak") and data.given.sum() == 4


def test_a_path_that_no_system_can_have_is_one_line_with_its_number(root):
    line = refusal(table(root, [*plain_rows(), "", f"{'x' * 300}.png,oak"]), "data")
    assert "list.csv, line 15: 'xxx" in line and "cannot be read (File name too long); mend the path" in line
    (root / "loop.png").symlink_to(root / "loop.png")
    assert "line 2: 'loop.png' cannot be read (Too many levels of symbolic links)" in refusal(table(root, ["loop.png,"]), "data")
    (root / "loop.png").unlink()


def test_what_is_no_folder_or_no_file_to_read_is_said(root, tmp_path):
    file = table(root, plain_rows())
    assert "data_root 'absent', below which" in refusal(file, "absent") and "leave it out" in refusal(file, "absent")
    assert f"images = '{root}' cannot be read (Is a directory); give a CSV file" in refusal(str(root), "data")
    assert "absent.csv' cannot be read (No such file or directory)" in refusal(str(tmp_path / "absent.csv"), "data")


def test_many_missing_files_are_all_listed_in_a_file(root):
    line = refusal(table(root, [f"gone{i}.png," for i in range(9)]), "data")
    file = Path(line.split("(all are listed in ")[1].split(")")[0])
    assert len(file.read_text().splitlines()) == 9 and "and 4 more" in line
    file.unlink()


def test_the_cells_that_a_short_row_lacks_are_empty_and_a_path_is_one_however_written(root):
    rows = [f"{NAMES[0]},oak,g", NAMES[1], f"./{NAMES[2]}", NAMES[2], f"{NAMES[3]},elm"]
    data = image_table.load(table(root, rows, "path,label,group"), "data")
    assert data.train.ids == NAMES[:4] and len(set(data.groups.tolist())) == 4


@pytest.mark.parametrize(("file", "name"), [("images.csv", "round 2"), ("Images.CSV", "round 2"), ("list.csv", "list")])
def test_a_table_that_is_called_as_all_are_gives_its_folder_s_name(root, tmp_path, monkeypatch, file, name):
    (tmp_path / "round 2").mkdir()
    whole = [f"{root / one},{label}" for one, label in zip(NAMES, LABELS, strict=True)]
    assert image_table.load(table(tmp_path / "round 2", whole, file=file), "data").name == f"folder/{name}"
    monkeypatch.chdir(tmp_path / "round 2")
    assert image_table.load(file, "data").name == f"folder/{name}"


def test_copies_join_the_groups_that_the_user_has_made(root):
    (root / "copy.png").write_bytes((root / NAMES[1]).read_bytes())
    rows = [f"{NAMES[0]},oak,g", f"{NAMES[1]},elm,g", "copy.png,elm,h", f"{NAMES[2]},oak,h", f"{NAMES[3]},elm,", f"{NAMES[4]},,"]
    data = image_table.load(table(root, rows, "path,label,group"), "data")
    assert data.groups.tolist() == [0, 0, 0, 0, 5, 6] and data.twins is None


def test_copies_are_not_held_out_in_part(root):
    (root / "copy.png").write_bytes((root / NAMES[1]).read_bytes())
    rows = [f"{NAMES[0]},oak,", f"{NAMES[1]},elm,val", f"{NAMES[2]},elm,", f"{NAMES[4]},,", "copy.png,elm,"]
    line = refusal(table(root, rows, "path,label,split"), "data")
    assert f"holds out (split = val) what it trains on, the same image or groups that share it: {NAMES[1]} and copy.png; give" in line
    rows[-1] = "copy.png,,"  # an unlabelled copy takes part in nothing
    data = image_table.load(table(root, rows, "path,label,split"), "data")
    split = split_of(data, 1.0, 0.1, 1)
    assert split.validation.tolist() == [1] and split.left_out.tolist() == [4]


def test_test_images_that_are_copies_or_grouped_with_one_are_left_out(root, capsys):
    (root / "copy.png").write_bytes((root / NAMES[5]).read_bytes())
    rows = [*(f"{row},," for row in plain_rows()[:9]), "copy.png,elm,g,test", f"{NAMES[9]},oak,g,test", f"{NAMES[10]},oak,,test"]
    data = image_table.load(table(root, rows, "path,label,group,split"), "data")
    assert data.test.ids == (NAMES[10],) and len(data.train) == 9
    reasons = [f"a copy of {NAMES[5]}, which is trained on", "of one group with a copy of a training image"]
    assert [one.reason for one in data.skipped] == reasons
    assert (
        "2 images for testing are copies of training images; they are left out (skipped.csv), such as copy.png" in capsys.readouterr().err
    )


def test_of_many_groups_that_are_torn_the_first_are_named(root):
    rows = [f"{name},oak,g{i % 6},{'test' if i > 5 else ''}" for i, name in enumerate(NAMES)]
    line = refusal(table(root, rows, "path,label,group,split"), "data")
    assert "g0 (lines 2 and 8), g1 (lines 3 and 9)" in line and "g4 (lines 6 and 12) and 1 more; put each group into one" in line


def test_of_many_copies_that_are_held_out_in_part_the_first_are_named(root):
    copies = [root / f"copy{i}.png" for i in range(6)]
    for copy in copies:
        copy.write_bytes((root / NAMES[1]).read_bytes())
    rows = [f"{NAMES[1]},elm,", f"{NAMES[0]},,", *(f"{copy.name},elm,val" for copy in copies)]
    line = refusal(table(root, rows, "path,label,split"), "data")
    assert f"{NAMES[1]} and copy4.png and 1 more pairs; give them one split" in line
