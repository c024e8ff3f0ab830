"""One reader of tables: what pandas and people write comes back as it was meant, and what is none is one line that says where."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.data import table_rows
from core.data.class_names import MISSING, plain
from core.data.table_rows import Row, Table
from core.errors import UserError
from tests.core.stages.tiny import refused

ONE_FOLDER = [HealthCheck.function_scoped_fixture]
CELLS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.sampled_from(' ,;\t"'), max_size=8)


def read(folder: Path, content: str | bytes) -> list[Row]:
    (folder / "t.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    return list(Table(folder / "t.csv"))


@settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=ONE_FOLDER)
@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(0, 2),
)
def test_what_pandas_writes_is_read_back(tmp_path, cells, mark, encoding, end, index):
    """Of any text, with any separator, encoding and line ends, with a column of numbers before, or cells more at the end."""
    cells = [(f"x{i}{path}".strip(), label, group) for i, (path, label, group) in enumerate(cells)]
    frame = pandas.DataFrame(cells, columns=["path", "label", "group"], dtype=str)
    if index == 2:
        frame["notes"] = "a note, or; two"
    frame.to_csv(tmp_path / "t.csv", sep=mark, encoding=encoding, lineterminator=end, index=index == 1)
    found = list(Table(tmp_path / "t.csv"))
    assert [row.label for row in found] == [plain(label) if label.strip() not in MISSING else "" for _, label, _ in cells]
    assert [row.group for row in found] == [group.strip() if group.strip() not in MISSING else "" for _, _, group in cells]
    assert [row.path for row in found] == [Path(path.replace("\\", "/")).as_posix() for path, _, _ in cells]
    assert [row.line for row in found] == list(range(2, len(cells) + 2))


@pytest.mark.parametrize(
    "content",
    [
        "\n\n  \nPath , LABEL\na.png,oak\n\n,\nb.png,\n",
        "sep=;\npath;label\na.png;oak\nb.png",
        '"sep=,"\r\n"path","label"\r\n"a.png","oak"\r\n"b.png",""\r\n',
        "label\tpath\toak\noak\t./a.png\t\n\tb.png\t\t\t\n",
        "path,label,label of another,path of a mask\na.png,oak,elm,m.png\nb.png,,,\n",
    ],
)
def test_other_spellings_of_one_table(tmp_path, content):
    assert [(row.path, row.label) for row in read(tmp_path, content)] == [("a.png", "oak"), ("b.png", "")]


def test_a_row_is_named_by_the_line_where_it_begins(tmp_path):
    rows = read(tmp_path, 'path,label\n\n"a.png","red\noak"\nb.png,elm\n')
    assert [(row.line, row.label) for row in rows] == [(3, "red oak"), (5, "elm")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,label\na.png,oak\nb, c.png,oak\n", "line 3 has 3 cells, and the header names 2: put what holds a ',' into quotes"),
        ("path\na;b.png\nb,c.png\n", "line 3 has 2 cells, and the header names 1"),
        ("path;label\n\na.png;oak;;x\n", "line 3 has 4 cells, and the header names 2: put what holds a ';' into quotes"),
        ("path,Label,label\na.png,oak,elm\n", "has two columns label; rename or remove one"),
        ('path,label\na.png,oak\n"b.png,elm\nc.png,\n', "is no table (unexpected end of data in line 3); mend the quotes there"),
        ('path,"label\na.png,oak\n', "is no table (unexpected end of data in line 1)"),
        ("path,label\n,oak\n", "line 2: the cell of path is empty; name the image or remove the line"),
        ("path,label,notes\n,,x\n", "line 2: the cell of path is empty"),
        ("path,label\na.png,o\x07k\n", "line 2: label = 'o\\x07k' holds characters that are no text"),
        ("file,label\n", "has no column path (it has: file, label); name it so"),
        ("path,Lable\n", "t.csv' has a column lable and none called label; did you mean 'label'? rename it so"),
        ("class,path,truth\n", "has a column class and none called label; did you mean 'label'?"),
        ("path;category\n", "has a column category and none called label"),
        ("path,label,groups\n", "has a column groups and none called group"),
        ("", "has no column path"),
    ],
)
def test_what_is_no_table_is_one_line_that_says_where(tmp_path, content, said):
    assert said in refused(lambda: read(tmp_path, content))


def test_missing_values_are_said_once_however_often_the_table_is_read(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("path,label,truth,group,split\na.png,NA,null,nan,None\nb.png,NA\u200b,,,\n", "utf-8")
    table = Table(tmp_path / "t.csv")
    assert [row.label + row.truth + row.group + row.split for row in [*table, *table]] == [""] * 4
    said = capsys.readouterr().err
    assert "are read as empty (label 'NA' 2, truth 'null' 1, group 'nan' 1, split 'None' 1); a class" in said and said.count("\n") == 1


GERMAN, BROKEN = "Größe Bär Käfer Vögel".encode("cp1252"), b"\xe4\xff\x81"


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("path,label,truth\r\n0.png,Säß,{0}\r\n1.png,Séß,{0}\r\n2.png,,{0}\r\n".encode("cp1252"), ["S溥", "S檫", ""]),
        ("path,label,truth,group\n0.png,Säß,{0},g\n1.png,Größe,{0},\n2.png,,{0},ü\n".encode("cp1252"), ["Säß", "Größe", ""]),
        ("sep=;\npath;Truth;label\na.png;{0};Süß\nb.png;{0};".encode("cp1252"), ["Süß", ""]),
        ("truth,path,label\n{0},ä.png,咖啡叶锈病\n{0},b.png,玉米叶枯病\n".encode("gb18030"), ["咖啡叶锈病", "玉米叶枯病"]),
        ("path;label;truth\na.png;берёза;{0}\n".encode("cp1251"), ["берёза"]),
        ("path,label,truth\na.png,Löwenzahn,{0}\nb.png,玉米,{0}\n".encode(), ["Löwenzahn", "玉米"]),
        (b"path,label,notes,truth\na.png,oak,{0},\nb.png,,{0},{0}\n", ["oak", ""]),
    ],
)
@pytest.mark.parametrize("truth", [b"", GERMAN, "берёза осина".encode("cp1251"), "玉米叶枯病".encode("gb18030"), BROKEN, b"\xff\xfe"])
def test_whatever_the_truth_is_written_in_the_other_columns_say_the_same(tmp_path, content, labels, truth):
    rows, bare = (read(tmp_path, content.replace(b"{0}", said)) for said in (truth, b""))
    assert [row.label for row in rows] == [row.label for row in bare] == labels
    assert [(row.line, row.path, row.group, row.split) for row in rows] == [(row.line, row.path, row.group, row.split) for row in bare]


def test_a_truth_of_another_encoding_is_read_by_itself(tmp_path, capsys):
    rows = read(tmp_path, "path,label,truth\na.png,Löwe,".encode() + GERMAN + "\nb.png,,Bär\n".encode("cp1252"))
    assert [(row.label, row.truth) for row in rows] == [("Löwe", GERMAN.decode("cp1252")), ("", "Bär")]
    assert capsys.readouterr().err.count("t.csv is neither UTF-8 nor marked; read as windows-1252, which is a guess") == 1


def test_an_encoding_is_guessed_from_the_first_cells_of_a_long_table(tmp_path, monkeypatch):
    monkeypatch.setattr(table_rows, "_SAMPLE", 40)
    lines = ["path,label", *(f"{i}.png,Löwenzahn" for i in range(9)), *(f"x{i}.png,берёза" for i in range(9))]
    (tmp_path / "t.csv").write_bytes("\n".join(lines[:10]).encode("cp1252") + "\n".join(["", *lines[10:]]).encode("cp1251"))
    assert [row.label for row in Table(tmp_path / "t.csv")] == ["Löwenzahn"] * 9 + ["берёза".encode("cp1251").decode("cp1252")] * 9


def test_columns_that_are_passed_over_are_said_once(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(",path,label,class,labels,Grad der Größe,\n0,a.png,oak,x,y,z,\n", "utf-8")
    table = Table(tmp_path / "t.csv")
    assert [row.label for row in [*table, *table]] == ["oak", "oak"]
    assert capsys.readouterr().err == f"taxon: {tmp_path}/t.csv: columns passed over: class, labels, grad der größe\n"
    read(tmp_path, ",".join(["path", *(f"column {i}" for i in range(21))]))
    assert capsys.readouterr().err.endswith("column 18, column 19, ...\n")


@pytest.mark.parametrize("path", ["x" * 300, "x" * 5000, "a\0b", "loop"])
def test_a_path_that_cannot_be_is_refused_with_its_line(tmp_path, path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    line = refused(lambda: table_rows.located(Row(7, path), tmp_path, Path("t.csv"), False))
    assert line.startswith("t.csv, line 7: '") and line.endswith("; mend the path") and len(line) < 300


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("folder", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["NFC", "NFD"])
def test_a_file_is_found_whether_its_letters_are_composed_or_not(tmp_path, written, folder, name):
    path = tmp_path / normalize(folder, "Grün") / normalize(name, "bär.png")
    path.parent.mkdir()
    path.write_bytes(b"")
    said = normalize(written, "Grün/bär.png")
    assert table_rows.located(Row(2, said), tmp_path, Path("t"), False) == (path, "")
    assert table_rows.located(Row(2, said.replace("png", "jpg")), tmp_path, Path("t"), False)[1] == "no such file or directory"


def test_a_backslash_may_be_a_letter_of_a_name(tmp_path):
    for name in ("day/a.png", "day\\a.png", "x\\b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    rows = read(tmp_path, "path\nday\\a.png\nx\\b.png\nx\\c.png\n")
    found = [table_rows.located(row, tmp_path, Path("t"), False) for row in rows]
    assert found[:2] == [(tmp_path / "day/a.png", ""), (tmp_path / "x\\b.png", "")]
    assert found[2] == (tmp_path / "x/c.png", "no such file or directory") and rows[2].path == "x/c.png"


def test_what_is_not_there_is_told_with_its_reason(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.png").write_bytes(b"")
    reasons = {name: table_rows.located(Row(2, name), tmp_path, Path("t"), False)[1] for name in ("a.png", "b.png", "folder", "a.png/c")}
    assert reasons == {"a.png": "", "b.png": "no such file or directory", "folder": "no file", "a.png/c": "not a directory"}


def test_a_table_that_vanishes_is_said(tmp_path):
    (tmp_path / "t.csv").write_text("path\na.png\n")
    table = Table(tmp_path / "t.csv")
    (tmp_path / "t.csv").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        list(table)
