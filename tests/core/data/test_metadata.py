import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data import metadata
from core.errors import UserError
from tests.core.data.test_folders import picture


@pytest.fixture
def table(tmp_path):
    """Return a function that writes a CSV beside three pictures and returns its path."""
    for name in ("a.png", "b.png", "deep/a.png"):
        picture(tmp_path / name)

    def write(text: str, encoding: str = "utf-8"):
        (tmp_path / "train.csv").write_bytes(text.encode(encoding))
        return tmp_path / "train.csv"

    return write


def test_path_and_label_are_enough(table):
    entries = metadata.read(table("image_path,label_61\na.png,3\ndeep/a.png,0\n"))
    assert [(e.file, e.label, e.source, e.facts) for e in entries] == [
        ("a.png", "3", "train.csv line 2", {}),
        ("deep/a.png", "0", "train.csv line 3", {}),
    ]
    assert all(e.path.is_file() for e in entries)


def test_every_column_is_read_in_any_order_and_blanks_are_no_facts(table):
    text = "severity,label_61,disease_id,disease,crop_id,crop_type,label_name,image_path,image_name,is_healthy,extra\n"
    text += "serious,7.0,02,mildew,1.0,cherry,cherry mildew,a.png,x,0,y\n,8,,,,,,b.png,,,\n"
    first, second = metadata.read(table(text))
    assert first.facts == {
        "label_name": "cherry mildew",
        "crop_type": "cherry",
        "crop_id": "1",
        "disease": "mildew",
        "disease_id": "2",
        "severity": "serious",
    }
    assert (first.label, second.label, second.facts) == ("7", "8", {})


def test_label_may_be_text_and_label_61_wins(table):
    assert metadata.read(table("image_path,label\na.png,rust\n"))[0].label == "rust"
    assert metadata.read(table("image_path,label,label_61\na.png,rust,5\n"))[0].label == "5"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_windows_lines_and_blank_lines_do_no_harm(table, encoding):
    text = '\r\nimage_path,label,label_name\r\n\r\na.png,1,"苹果, 健康"\r\n,,\r\n'
    (entry,) = metadata.read(table(text, encoding))
    assert entry.facts["label_name"] == "苹果, 健康" and entry.label == "1"


def test_paths_are_relative_to_the_folder_where_one_is_given(table, tmp_path):
    path = table("image_path,label\na.png,1\n")
    assert metadata.read(path, tmp_path / "deep")[0].path == tmp_path.resolve() / "deep" / "a.png"
    assert metadata.read(path)[0].path == tmp_path.resolve() / "a.png"


def test_backslashes_and_absolute_paths_inside_the_folder_are_understood(table, tmp_path):
    entries = metadata.read(table(f"image_path,label\ndeep\\a.png,1\n{tmp_path.resolve()}/b.png,1\n./x/../a.png,1\n"))
    assert [e.file for e in entries] == ["deep/a.png", "b.png", "a.png"]


@pytest.mark.parametrize("text", ["../secret.png", "/etc/passwd", "deep/../../secret.png", "..\\secret.png", "", ".", "out.png", "a\0.png"])
def test_a_path_that_leads_out_is_refused(table, tmp_path, text):
    path = table(f"image_path,label\na.png,1\n{text},1\n")
    (tmp_path / "out.png").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match=r"train\.csv line 3: .*leads out of"):
        metadata.read(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("image_path,label\n", "has no rows"),
        ("image_path,other\na.png,1\n", "no column label_61"),
        ("image_name,label\na.png,1\n", "no column image_path; its columns are: image_name, label"),
        ("image_path;label\na.png;1\n", "no column label_61"),
        ("image_path,label,label\na.png,1,2\n", "two columns of one name"),
        ("image_path,label\na.png\n", "line 2 has 1 cells, the header has 2"),
        ("image_path,label\na.png,\n", "line 2: label '' is not a label"),
        ("image_path,label_61\na.png,rust\n", "line 2: label_61 'rust' is not a label; give a whole number from 0"),
        ("image_path,label_61\na.png,-1\n", "label_61 '-1'"),
        ("image_path,label_61\na.png,1.5\n", "label_61 '1.5'"),
        ("image_path,label_61\na.png,nan\n", "label_61 'nan'"),
        ("image_path,label\na.png,1\n./a.png,2\n", r"train\.csv line 2 and train\.csv line 3 name the same image 'a\.png'"),
        ("image_path,label\nx.png,1\na.png,1\ny.png,1\n", r"2 of the 3 images .* do not exist .* 'x\.png' \(train\.csv line 2\)"),
        ('image_path,label\n"a.png,1\n', "is not CSV"),
    ],
)
def test_a_bad_table_is_answered_in_one_line(table, text, said):
    with pytest.raises(UserError, match=said) as error:
        metadata.read(table(text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["nan", "NaN", "None", "<NA>", "null", "NaT", "N/A"])
def test_what_stands_for_a_missing_value_is_no_label_and_no_fact(table, missing):
    with pytest.raises(UserError, match=f"line 2: label '{missing}' is not a label: it stands for a missing value"):
        metadata.read(table(f"image_path,label\na.png,{missing}\n"))
    (entry,) = metadata.read(table(f"image_path,label,disease,label_name\na.png,x,{missing},{missing}\n"))
    assert entry.facts == {}


def test_one_image_path_and_one_label_have_several_spellings(table):
    picture(table("").parent / "cafe\u0301.png")
    (entry,) = metadata.read(table("image_path,label\ncaf\u00e9.png,cafe\u0301\n"))
    assert entry.path.is_file() and entry.label == "caf\u00e9"


def test_other_encodings_are_named(table):
    with pytest.raises(UserError, match="not UTF-8 text"):
        metadata.read(table("image_path,label\na.png,苹果\n", "gb18030"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_decides(table, encoding):
    assert metadata.read(table("image_path,label\na.png,苹果\n", encoding))[0].label == "苹果"


def test_a_long_cell_is_read(table):
    assert len(metadata.read(table("image_path,label,remark\na.png,1," + "very long " * 20000 + "\n"))) == 1


@pytest.mark.parametrize("what", ["absent", "folder"])
def test_a_table_that_cannot_be_read_is_named(tmp_path, what):
    path = tmp_path if what == "folder" else tmp_path / "train.csv"
    with pytest.raises(UserError, match=r"metadata file .* cannot be read"):
        metadata.read(path)


def test_a_folder_that_is_none_is_named(table, tmp_path):
    with pytest.raises(UserError, match=r"'.*nowhere' is not a folder"):
        metadata.read(table("image_path,label\na.png,1\n"), tmp_path / "nowhere")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0")).map(str.strip), min_size=1, max_size=4))
def test_what_is_written_is_read_back(names):
    written = metadata.write({"image_path": "a.png", "label_name": name} for name in names).decode()
    rows = list(csv.DictReader(io.StringIO(written, newline="")))
    assert [row["label_name"] for row in rows] == names and tuple(rows[0]) == metadata.COLUMNS


def test_weights_are_read_by_label_or_class(table):
    (row,) = metadata.read_weights(table("class,weight\nrust,0.25\n"))
    assert (row.label, row.name, row.weight, row.source) == ("", "rust", 0.25, "train.csv line 2")
    (row,) = metadata.read_weights(table("label_61,weight,class\n07,2,rust\n"))
    assert (row.label, row.name, row.weight) == ("7", "rust", 2.0)


@pytest.mark.parametrize("value", ["", "x", "nan", "inf", "0", "-1"])
def test_a_weight_that_is_none_is_refused(table, value):
    with pytest.raises(UserError, match=f"line 2: weight '{value}' is not a finite number above 0"):
        metadata.read_weights(table(f"class,weight\nrust,{value}\n"))


@pytest.mark.parametrize("header", ["class,value", "name,weight"])
def test_weights_without_their_columns_are_refused(table, header):
    with pytest.raises(UserError, match="needs the columns weight and label or class"):
        metadata.read_weights(table(f"{header}\nrust,1\n"))


def test_groups_are_read_and_written_where_there_are_any(table):
    found = metadata.read(table("image_path,label,group\na.png,1,plant 7\nb.png,1,nan\n"))
    assert [entry.group for entry in found] == ["plant 7", ""]
    assert {entry.group for entry in metadata.read(table("image_path,label\na.png,1\n"))} == {""}
    written = metadata.write([{"image_path": "a.png", "group": "plant 7"}, {"image_path": "b.png"}]).decode().splitlines()
    assert written[0] == ",".join((*metadata.COLUMNS, "group")) and written[1].endswith(",plant 7") and written[2].endswith(",")
