"""bad_cases.csv: what is written reads back, what is broken is named."""

from __future__ import annotations

import numpy as np
import pytest

from core.data import bad_cases, posts
from core.data.bad_cases import BadCases
from core.errors import UserError
from tests.core.data import fake_posts

HEADER = "guid,true_label,pred_label,confidence,text_path,image_path,reason\n"


@pytest.fixture
def root(tmp_path):
    return fake_posts.write(tmp_path / "posts", n=6, n_predict=0)


def some(root) -> BadCases:
    found = posts.load(root).subset([2, 0])
    return BadCases(found, ("negative", "positive"), np.array([0.75, 0.5]), ("wrong", "wrong, low confidence"))


def test_bad_cases_read_back_as_they_were_written(root, tmp_path):
    bad_cases.write(tmp_path / "bad_cases.csv", some(root), root)
    assert (tmp_path / "bad_cases.csv").read_text().startswith(HEADER + "3,positive,negative,0.750000,data/3.txt,data/3.jpg,wrong\n")
    read = bad_cases.read(tmp_path / "bad_cases.csv", root)
    assert read.posts.guids == ("3", "1") and read.posts.texts == some(root).posts.texts and len(read) == 2
    assert read.posts.labels.tolist() == [2, 0] and read.confidences.tolist() == [0.75, 0.5]
    assert (read.predicted, read.reasons) == (some(root).predicted, some(root).reasons)
    assert not (tmp_path / "texts").exists()


def test_a_text_without_a_file_of_its_own_gets_one_beside_the_table(root, tmp_path):
    cases = some(root)
    changed = posts.Posts(cases.posts.guids, ("corrected, by hand", cases.posts.texts[1]), cases.posts.image_paths, cases.posts.labels)
    bad_cases.write(tmp_path / "bad_cases.csv", BadCases(changed, cases.predicted, cases.confidences, cases.reasons), root)
    assert bad_cases.read(tmp_path / "bad_cases.csv", root).posts.texts == changed.texts
    assert [path.name for path in (tmp_path / "texts").iterdir()] == ["3.txt"]


def test_a_table_made_by_hand_may_be_short_and_lie_beside_its_files(root):
    (root / "bad.csv").write_text("GUID;True_Label;text_path;image_path\n 1 ; Negative ;data\\1.txt;data\\1.jpg\n")
    read = bad_cases.read(root / "bad.csv")
    assert read.posts.tags == ("negative",) and read.predicted == read.reasons == ("",) and np.isnan(read.confidences).all()


ROW = "1,negative,positive,0.9,data/1.txt,data/1.jpg,wrong\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("guid,label\n1,negative\n", "has no column 'true_label'"),
        ("guid,true_label,text_path\n", "has no column 'image_path'"),
        (HEADER + ROW.replace("negative", "angry"), "unknown tag 'angry'"),
        (HEADER + ROW.replace("negative", ""), "no true_label at all"),
        (HEADER + ROW + ROW, "stands a second time"),
        (HEADER + ROW.replace("0.9", "1.9"), "confidence '1.9' is no probability"),
        (HEADER + ROW.replace("0.9", "high"), "confidence 'high' is no probability"),
        (HEADER + ROW.replace("0.9", "nan"), "confidence 'nan' is no probability"),
        (HEADER + ROW.replace("1.txt", "9.txt").replace("1.jpg", "8.jpg"), "lacks 2 files of bad.csv: data/9.txt, data/8.jpg"),
        (HEADER + ROW.replace("data/1.txt", ""), "the text_path of 1"),
        (HEADER + "1,negative\n", "line 2 does not have the 7 fields"),
        (HEADER + ROW.replace("data/1.txt", "../secret.txt"), "leads out of"),
        (HEADER + '1,"neg', "is not valid CSV"),
    ],
)
def test_mistakes_are_one_line(root, text, message):
    (root.parent / "secret.txt").write_text("x")
    (root / "bad.csv").write_text(text)
    with pytest.raises(UserError) as error:
        bad_cases.read(root / "bad.csv", root)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_absent_files_and_images_elsewhere_are_one_line(root, tmp_path):
    with pytest.raises(UserError, match=r"absent.csv cannot be read \(No such file"):
        bad_cases.read(tmp_path / "absent.csv")
    (tmp_path / "other").mkdir()
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="lies neither in"):
        bad_cases.write(tmp_path / "out" / "bad_cases.csv", some(root), tmp_path / "other")
