"""Files read back as they were written, by this project, by pandas and by a spreadsheet's rules; the same answer, the same bytes."""

import csv
import dataclasses
import io
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.data.images import Skipped
from core.errors import UserError
from core.evaluation import answer_files
from core.evaluation.suggest import suggest
from tests.core.evaluation.answers import made

NASTY = (
    'a,"b"\r\nc',
    "=HYPERLINK(1)",
    "-1+1",
    "@x",
    "+49",
    "'=x",
    "\tx",
    "Blätter/叶.png",
    "\udc80.png",
    "",
    " blank ",
    "a\rb",
    "'",
    "''-",
)


def nasty(rows):
    """Return the rows with paths, ids and labels that break careless tables."""
    paths = (*NASTY, *rows.paths[len(NASTY) :])
    ids = tuple(f"{path}#{i}" for i, path in enumerate(paths))
    return dataclasses.replace(rows, paths=paths, ids=ids, duplicates=np.where(np.arange(len(paths)) < 3, 0, -1))


def written(folder, answer):
    answer_files.write(answer, folder, "run7", [Skipped("=bad.png", "empty file")], suggest(answer, 5), [("test/=1", "ab")])
    return {path.name: path for path in folder.iterdir()}


def test_every_value_of_an_assignment_reads_back(tmp_path):
    answer = made(change=nasty).answer
    rows = answer_files.rows_of(written(tmp_path, answer)["assignments.csv"])
    assert tuple(rows[0]) == answer_files.ASSIGNMENTS
    for name, column in (("path", answer.paths), ("id", answer.ids), ("part", answer.parts), ("label", answer.labels)):
        assert tuple(row[name] for row in rows) == column
    for name, column in (("cluster", answer.clusters), ("half", answer.halves)):
        assert [int(row[name]) for row in rows] == column.tolist()
    for name, column in (("confidence", answer.confidences), ("margin", answer.margins)):
        assert [float(row[name]) for row in rows] == column.tolist()
    assert [row["duplicate_group"] for row in rows] == ["0"] * 3 + [""] * (len(rows) - 3)
    assert {(row["name"], row["known"]) for row in rows} == {("oak", "true"), ("pine", "true"), ("novel 1", "false")}


def test_pandas_reads_the_same_and_a_spreadsheet_meets_no_formula(tmp_path):
    answer = made(change=nasty).answer
    files = written(tmp_path, answer)
    table = pd.read_csv(files["assignments.csv"], keep_default_na=False, na_values={"duplicate_group": [""]})
    assert list(table.columns) == list(answer_files.ASSIGNMENTS) and len(table) == len(answer)
    assert table["confidence"].tolist() == answer.confidences.tolist()
    assert table["known"].dtype == bool and table["cluster"].tolist() == answer.clusters.tolist()
    assert table["duplicate_group"].dropna().tolist() == [0, 0, 0]
    assert [path for path in table["path"] if path.startswith("'")] == [
        "'=HYPERLINK(1)",
        "'-1+1",
        "'@x",
        "'+49",
        "''=x",
        "'\tx",
        "'",
        "'''-",
    ]
    for name in ("assignments.csv", "outliers.csv", "duplicates.csv", "skipped.csv", "suggest.csv", "contents.csv", "clusters.csv"):
        content = files[name].read_bytes()
        assert content.startswith(b"\xef\xbb\xbf") and b"\r\n" in content
        cells = [cell for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")) for cell in row]
        assert not [cell for cell in cells if cell[:1] in tuple("=+@\t\r") or (cell[:1] == "-" and cell != "-1")]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=2, max_size=2))
@example(["\ufeff", "'=\u2028"])
def test_any_text_reads_back(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("cells") / "x.csv"
    path.write_bytes(answer_files.table(("a", "b"), [dict(zip("ab", cells, strict=True))]))
    assert answer_files.rows_of(path) == [dict(zip("ab", cells, strict=True))]


def test_the_same_answer_gives_the_same_bytes(tmp_path):
    one, other = (written(tmp_path / name, made(change=nasty).answer) for name in "ab")
    assert one.keys() == other.keys() and len(one) == 8
    assert all(one[name].read_bytes() == other[name].read_bytes() for name in one)


def test_clusters_json_is_what_relabel_reads(tmp_path):
    answer = made().answer
    value = json.loads(written(tmp_path, answer)["clusters.json"].read_text())
    assert {name: value[name] for name in ("format", "run", "digest")} == {
        "format": "taxon-clusters/1",
        "run": "run7",
        "digest": answer.digest,
    }
    one = value["clusters"][2]
    assert (one["cluster"], one["name"], one["known"], one["size"], one["expected_purity"]) == (2, "novel 1", False, 40, None)
    assert one["exemplars"] == [answer.ids[row] for row in answer.categories[2].exemplars]
    assert (one["merge"], one["split"], one["drop"]) == (None, False, False)
    assert set(one) == {
        *("cluster", "name", "known", "size", "cohesion", "separation", "nearest", "expected_purity", "confidence"),
        *("exemplars", "merge", "split", "drop"),
    }


def test_other_tables_hold_what_they_are_named_for(tmp_path):
    answer = made(change=nasty).answer
    files = {name: answer_files.rows_of(path) for name, path in written(tmp_path, answer).items() if name.endswith(".csv")}
    assert [(row["group"], row["id"]) for row in files["duplicates.csv"]] == [("0", answer.ids[i]) for i in range(3)]
    assert files["contents.csv"][5] == {"id": answer.ids[5], "sha256": answer.contents[5], "part": "train"}
    assert files["contents.csv"][len(answer) :] == [{"id": "test/=1", "sha256": "ab", "part": "test"}]
    assert files["skipped.csv"] == [{"path": "=bad.png", "reason": "empty file"}]
    assert len(files["outliers.csv"]) == answer.facts["outliers"]
    assert [row["size"] for row in files["clusters.csv"]] == ["60", "50", "40"]
    assert files["clusters.csv"][2]["expected_purity"] == "" and files["clusters.csv"][2]["nearest_name"] in ("oak", "pine")
    assert len(files["suggest.csv"]) == 5 and files["suggest.csv"][0]["reason"].startswith("centre of novel 1")


@pytest.mark.parametrize(("content", "said"), [("", "is empty"), ("a,b\n1\n", "row 2 has 1 cells, its header 2"), ('a\n"x', "is not CSV")])
def test_a_damaged_file_is_named(tmp_path, content, said):
    (tmp_path / "contents.csv").write_text(content)
    with pytest.raises(UserError, match=said):
        answer_files.rows_of(tmp_path / "contents.csv")
    with pytest.raises(UserError, match=said):
        list(answer_files.each_row(tmp_path / "contents.csv"))


def test_rows_come_one_at_a_time_as_they_are_read_at_once(tmp_path):
    path = written(tmp_path, made(change=nasty).answer)["assignments.csv"]
    assert list(answer_files.each_row(path)) == answer_files.rows_of(path)
    with pytest.raises(UserError, match=r"none\.csv cannot be read"):
        next(answer_files.each_row(tmp_path / "none.csv"))
