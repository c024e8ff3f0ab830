from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data import perceptual_hash, posts
from core.errors import UserError
from tests.core.data import fake_posts

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "posts"


@pytest.fixture
def root(tmp_path):
    return fake_posts.write(tmp_path / "posts", n=6, n_predict=2)


def refused(root: Path, match: str, index: str = "train.txt") -> str:
    with pytest.raises(UserError, match=match) as error:
        posts.load(root, index)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("delimiter", [",", "\t", " ", " , "])
def test_comma_tab_and_space_are_read_alike(tmp_path, delimiter):
    data = posts.load(fake_posts.write(tmp_path / "posts", 6, 2, delimiter))
    assert data.guids == ("1", "2", "3", "4", "5", "6") and data.tags[:3] == posts.CLASS_NAMES
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2] and data.labels.dtype == np.int64
    assert data.texts[0] == "post number 1" and data.image_paths[0].name == "1.jpg"


def test_null_tags_give_no_labels(root):
    data = posts.load(root, "test_without_label.txt")
    assert data.labels is None and data.guids == ("7", "8") and data.tags == ("", "")


def test_windows_line_ends_marks_quotes_blank_lines_and_case_are_taken(root):
    (root / "train.txt").write_bytes('\ufeffGuid,Tag\r\n"1","Positive"\r\n\r\n2,neutral\r\n'.encode())
    data = posts.load(root)
    assert data.guids == ("1", "2") and data.labels.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("content", "text", "encoding"),
    [
        (b"plain", "plain", "utf-8"),
        ("caf\u00e9".encode(), "caf\u00e9", "utf-8"),
        ("\ufeffmarked".encode(), "marked", "utf-8"),
        ("\u5fc3\u60c5\u2026".encode("gb18030"), "\u5fc3\u60c5\u2026", "gb18030"),
        ("\U0001f602".encode("gb18030"), "\U0001f602", "gb18030"),
        (b"caf\xe9", "caf\u00e9", "windows-1252"),
        (b"a\x00b\x07", "ab", "utf-8"),
        (b"", "", "utf-8"),
    ],
)
def test_a_text_is_decoded_and_loses_its_controls(content, text, encoding):
    assert posts.decode(content) == (text, encoding, encoding != "utf-8")


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_give_a_text_that_utf8_can_hold(content):
    text, _encoding, _guessed = posts.decode(content)
    assert posts.decode(text.encode("utf-8"))[0] == text.removeprefix("\ufeff")


def test_encodings_and_empty_texts_are_counted(root):
    (root / "data" / "1.txt").write_bytes("\u5fc3\u60c5".encode("gb18030"))
    (root / "data" / "2.txt").write_bytes(b"caf\xe9")
    (root / "data" / "3.txt").write_bytes(b" \n")
    data = posts.load(root)
    assert data.encodings == {"utf-8": 4, "gb18030": 1, "latin-1": 0, "windows-1252": 1}
    assert data.guessed == {"gb18030": ("1.txt",), "windows-1252": ("2.txt",)}
    assert data.texts[2] == "" and data.n_empty == 1


def test_missing_files_are_listed_all_at_once(root):
    for name in ("2.txt", "5.txt", "3.jpg"):
        (root / "data" / name).unlink()
    assert "lacks 3 files of train.txt: 2.txt, 5.txt, 3.jpg; add" in refused(root, "lacks")


def test_a_long_list_of_missing_files_is_cut(tmp_path):
    root = fake_posts.write(tmp_path / "posts", 20, 0)
    for i in range(1, 21):
        (root / "data" / f"{i}.jpg").unlink()
    assert "lacks 20 files of train.txt: 1.jpg" in refused(root, "8.jpg and 12 more; add")


def test_other_image_types_and_upper_case_are_found(root):
    (root / "data" / "1.jpg").rename(root / "data" / "1.JPG")
    fake_posts.picture(root / "data" / "2.png", 1)
    (root / "data" / "2.jpg").unlink()
    assert [path.name for path in posts.load(root).image_paths[:2]] == ["1.JPG", "2.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"train.txt is empty; its first line must be the header guid,tag"),
        ("1,positive\n", "starts with '1,positive'; its first line must be the header"),
        ("guid,tag\n", "has a header but no row"),
        ("guid,tag\n1,positive\n2,postive\n", "line 3: unknown tag 'postive'; did you mean 'positive'"),
        ("guid,tag\n1,positive\n1,neutral\n", "line 3: guid '1' stands a second time, first in train.txt line 2"),
        ("guid,tag\n1,positive\n2,null\n", "line 3 has no tag while 1 other posts have one"),
        ("guid,tag\n1\n", "line 2 has 1 fields"),
        ("guid,tag\n1,positive,x\n", "line 2 has 3 fields"),
        ("guid,tag\n../1,positive\n", "guid '../1' is not a file name"),
        ("guid,tag\n..,positive\n", "guid '..' is not a file name"),
    ],
)
def test_a_broken_index_says_line_and_remedy(root, content, message):
    (root / "train.txt").write_text(content)
    refused(root, message)


def test_a_missing_folder_or_index_says_the_layout(root, tmp_path):
    for where in ("", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match=r"not a folder; expected .*guid,tag"):
            posts.load(where)
    refused(root, "other.txt cannot be read .*expected", "other.txt")
    (root / "data").rename(root / "elsewhere")
    refused(root, "data is not a folder; expected")


def test_links_that_lead_out_are_refused_and_links_inside_are_fine(root, tmp_path):
    (root / "data" / "1.txt").unlink()
    (root / "data" / "1.txt").symlink_to(root / "data" / "2.txt")
    assert posts.load(root).texts[0] == "post number 2"
    (tmp_path / "secret.txt").write_text("secret")
    (root / "data" / "1.txt").unlink()
    (root / "data" / "1.txt").symlink_to(tmp_path / "secret.txt")
    refused(root, "leads out of")


def test_fingerprints_know_files_and_what_they_show(tmp_path):
    fake_posts.picture(tmp_path / "a.jpg", 1, (96, 80))
    fake_posts.picture(tmp_path / "again.jpg", 1, (96, 80), quality=97)
    fake_posts.picture(tmp_path / "other.jpg", 2, (96, 80))
    a, again, other = (posts.fingerprint(tmp_path / f"{name}.jpg") for name in ("a", "again", "other"))
    assert a.content != again.content and len(a.content) == 64
    assert len(perceptual_hash.alike([a.look], [again.look])) == 1 and not len(perceptual_hash.alike([a.look], [other.look]))
    assert bin(int(a.look, 16) ^ int(other.look, 16)).count("1") > 60


def test_plain_pictures_look_like_nothing(tmp_path):
    from PIL import Image

    Image.new("RGB", (30, 20), (200, 10, 10)).save(tmp_path / "plain.png")
    assert posts.fingerprint(tmp_path / "plain.png").look == ""


def test_a_damaged_image_is_named(root):
    (root / "data" / "4.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"4\.jpg: not a readable image"):
        posts.load(root).fingerprints  # noqa: B018


def test_subset_digest_and_images(root):
    data = posts.load(root)
    part = data.subset([4, 0])
    assert part.guids == ("5", "1") and part.labels.tolist() == [1, 0] and part.texts == ("post number 5", "post number 1")
    assert part.images().load(np.array([0]))[0].shape == (20, 24, 3)
    before = data.digest
    assert posts.load(root).digest == before != part.digest
    fake_posts.picture(root / "data" / "1.jpg", 99)
    assert posts.load(root).digest != before
    assert posts.load(root, "test_without_label.txt").subset(np.array([1])).labels is None


@pytest.mark.parametrize("labels", [np.zeros(1, np.int64), np.zeros(2, np.int32)])
def test_posts_must_match(labels):
    with pytest.raises(ValueError, match="labels must be"):
        posts.Posts(("a", "b"), ("", ""), (Path("a"), Path("b")), labels)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the posts beside the repository (shared/data/posts)")
def test_the_real_posts_load():
    data, unlabelled = posts.load(REAL), posts.load(REAL, "test_without_label.txt")
    assert (len(data), len(unlabelled)) == (3600, 400) and unlabelled.labels is None
    assert np.bincount(data.labels).tolist() == [1060, 380, 2160]
    assert data.encodings == {"utf-8": 2745, "gb18030": 855, "latin-1": 0}
