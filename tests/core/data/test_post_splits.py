import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.data import post_splits, posts
from core.data.post_splits import Leak, group, leaks, normalise, read_csv, split_groups, write_csv
from core.data.posts import Posts
from core.errors import UserError
from tests.core.data import fake_posts

PARTS = ("train", "val", "test")


@st.composite
def problems(draw):
    """Guids, labels of 1..4 classes, groups of 1..6 posts, fractions and a seed."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n = draw(st.integers(60, 200))
    labels = rng.choice(draw(st.integers(1, 4)), n)
    groups = np.where(rng.random(n) < draw(st.sampled_from([0.0, 0.2, 0.6])), rng.integers(0, n // 4, n), np.arange(n) + n)
    sizes = np.bincount(groups)
    for number in np.flatnonzero(sizes > 6):  # keep groups small
        rows = np.flatnonzero(groups == number)[6:]
        groups[rows] = 10 * n + rows
    guids = tuple(str(i) for i in rng.permutation(10 * n)[:n])
    return guids, labels, groups, draw(st.sampled_from([0.1, 0.2, 0.3])), draw(st.sampled_from([0.1, 0.25])), draw(st.integers(0, 2**31))


def union_find(n: int, keys: dict[str, list[str]]) -> list[set[int]]:
    """The plain way: merge sets until none share a key."""
    sets = [{i} for i in range(n)]
    for values in keys.values():
        for i in range(n):
            for j in range(i):
                if values[i] and values[i] == values[j]:
                    one, other = (next(s for s in sets if k in s) for k in (i, j))
                    if one is not other:
                        one |= other
                        sets.remove(other)
    return sorted(sets, key=min)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 25).flatmap(lambda n: st.tuples(*[st.lists(st.sampled_from(["", *"abcdefgh"]), min_size=n, max_size=n)] * 2)))
def test_groups_are_those_of_plain_union_find(values):
    keys = {"image": values[0], "text": values[1]}
    n = len(values[0])
    groups = group(n, keys)
    assert [set(np.flatnonzero(groups == number).tolist()) for number in range(len(set(groups.tolist())))] == union_find(n, keys)
    assert groups.dtype == np.int64 and groups.shape == (n,)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(problems())
def test_a_split_is_a_partition_of_whole_groups(problem):
    guids, labels, groups, val, test, seed = problem
    split = split_groups(guids, labels, groups, val, test, seed)
    parts = [getattr(split, name) for name in PARTS]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(guids)))
    numbers = [set(groups[part].tolist()) for part in parts]
    assert not numbers[0] & numbers[1] and not numbers[0] & numbers[2] and not numbers[1] & numbers[2]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(problems())
def test_every_class_has_its_share_in_every_part(problem):
    guids, labels, groups, val, test, seed = problem
    split = split_groups(guids, labels, groups, val, test, seed)
    largest = np.bincount(np.unique(groups, return_inverse=True)[1]).max()
    slack = 0.5 if largest == 1 else largest + 0.5
    for name, fraction in (("val", val), ("test", test)):
        have = np.bincount(labels[getattr(split, name)], minlength=4)
        assert (np.abs(have - fraction * np.bincount(labels, minlength=4)) <= slack + 1e-9).all()


@settings(derandomize=True, deadline=None, max_examples=40)
@given(problems(), st.integers(0, 99))
def test_the_order_of_rows_does_not_matter_and_a_seed_is_a_split(problem, shuffle):
    guids, labels, groups, val, test, seed = problem
    split = split_groups(guids, labels, groups, val, test, seed)
    order = np.random.default_rng(shuffle).permutation(len(guids))
    other = split_groups([guids[i] for i in order], labels[order], groups[order], val, test, seed)
    assert other.digest == split.digest
    for name in PARTS:
        assert {guids[i] for i in getattr(split, name)} == {guids[order[i]] for i in getattr(other, name)}


def test_the_seed_and_the_fractions_change_the_split():
    guids, labels, groups = [str(i) for i in range(90)], np.arange(90) % 3, np.arange(90)
    split = split_groups(guids, labels, groups, 0.1, 0.1, 1)
    assert split_groups(guids, labels, groups, 0.1, 0.1, 2).digest != split.digest
    assert [len(getattr(split, name)) for name in PARTS] == [72, 9, 9]
    wide = split_groups(guids, labels, groups, 0.3, 0.0, 1)
    assert len(wide.val) == 27 and len(wide.test) == 0


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ((-0.1, 0.1, 0), "val_fraction"),
        ((0.1, 1.0, 0), "test_fraction"),
        ((float("nan"), 0.1, 0), "val_fraction"),
        ((0.5, 0.5, 0), "leaves nothing to train on"),
        ((0.1, 0.1, -1), "seed"),
    ],
)
def test_impossible_fractions_are_refused(fractions, message):
    with pytest.raises(UserError, match=message):
        post_splits.check_fractions(*fractions)


def test_too_few_posts_for_a_part_are_refused():
    with pytest.raises(UserError, match=r"3 posts in 3 groups are too few for a share of 0\.1 as val"):
        split_groups("abc", np.zeros(3, np.int64), np.arange(3), 0.1, 0.1, 0)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Hello  World", "hello world"),
        ("RT @who: Nice day http://t.co/abc", "nice day https://t.co/xyz"),
        ("\uff21\uff22", "ab"),
        ("cut http:/\u2026", "cut"),
        ("cut http\u2026", "cut htt\u2026"),
        ("cut ht\u2026", "cut"),
    ],
)
def test_equal_texts_are_seen_through_their_dress(text, same):
    assert normalise(text) == normalise(same) != ""


@pytest.mark.parametrize(("text", "other"), [("good", "bad"), ("http://t.co/a", "http://t.co/b"), ("#a b", "a b")])
def test_other_texts_stay_other(text, other):
    assert normalise(text) != normalise(other)


def test_an_empty_text_is_like_nothing():
    assert normalise(" \n") == "" and len(set(group(3, {"text": ["", "", ""]}).tolist())) == 3


@pytest.fixture
def root(tmp_path):
    return fake_posts.write(tmp_path / "posts", n=40, n_predict=3)


def test_same_files_same_looks_and_same_texts_stay_together(root):
    data = root / "data"
    (data / "2.jpg").write_bytes((data / "1.jpg").read_bytes())
    (data / "3.txt").write_text("POST number  2 http://t.co/x")
    with Image.open(data / "3.jpg") as image:
        image.save(data / "4.png")  # the same picture in another file
    (data / "4.jpg").unlink()
    loaded = posts.load(root)
    for seed in range(6):
        split = post_splits.make_split(loaded, 0.2, 0.2, seed)
        assert len(set(split.groups[:4].tolist())) == 1 and len(set(split.groups.tolist())) == 37
        assert sum(bool(set(getattr(split, name).tolist()) & {0, 1, 2, 3}) for name in PARTS) == 1
        parts = [loaded.subset(getattr(split, name)) for name in PARTS]
        assert not leaks(parts[0], parts[1]) and not leaks(parts[0], parts[2]) and not leaks(parts[1], parts[2])


def save_again(data: Path, given: str, guid: str) -> None:
    """Make post `guid` show the picture of `given` at another size and quality: its look keeps all but some bits."""
    fake_posts.picture(data / f"{given}.jpg", int(given), (96, 80))
    with Image.open(data / f"{given}.jpg") as image:
        image.resize((60, 50)).save(data / f"{guid}.jpg", quality=30)
    before, after = (posts.fingerprint(data / f"{name}.jpg").look for name in (given, guid))
    assert 0 < (int(before, 16) ^ int(after, 16)).bit_count() <= 10


def test_a_picture_that_was_saved_again_stays_on_one_side_and_is_a_leak(root):
    save_again(root / "data", "1", "31")
    loaded = posts.load(root)
    assert post_splits.make_split(loaded, 0.2, 0.2, 0).groups[[0, 30]].tolist() == [0, 0]
    assert leaks(loaded.subset(range(20)), loaded.subset(range(20, 40))) == [Leak("31", "1", "similar image")]


def test_posts_without_tags_cannot_be_split(root):
    with pytest.raises(UserError, match="without tags"):
        post_splits.make_split(posts.load(root, "test_without_label.txt"), 0.1, 0.1, 0)


def test_leaks_name_both_posts_and_the_way(root):
    data = root / "data"
    (data / "31.jpg").write_bytes((data / "1.jpg").read_bytes())
    (data / "32.txt").write_text("RT @me: Post number 2")
    with Image.open(data / "3.jpg") as image:
        image.save(data / "33.png")
    (data / "33.jpg").unlink()
    loaded = posts.load(root)
    found = leaks(loaded.subset(range(21)), loaded.subset([20, 30, 31, 32, 33]))
    assert set(found) == {
        Leak("21", "21", "guid"),
        Leak("21", "21", "image"),
        Leak("21", "21", "similar image"),
        Leak("21", "21", "text"),
        Leak("31", "1", "image"),
        Leak("31", "1", "similar image"),
        Leak("32", "2", "text"),
        Leak("33", "3", "similar image"),
    }


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\n\r\t",;'), max_size=40)


@settings(derandomize=True, deadline=None, max_examples=80)
@given(st.lists(st.tuples(TEXTS, st.sampled_from([0, 1, 2])), min_size=1, max_size=6), st.booleans())
def test_a_csv_gives_back_what_was_written(tmp_path_factory, rows, labelled):
    root = tmp_path_factory.getbasetemp() / "csv"
    (root / "data").mkdir(parents=True, exist_ok=True)
    paths = [root / "data" / f"{i}.jpg" for i in range(len(rows))]
    for path in paths:
        path.touch()
    guids, labels = tuple(str(i) for i in range(len(rows))), np.array([label for _, label in rows], np.int64)
    written = Posts(guids, tuple(text for text, _ in rows), tuple(paths), labels if labelled else None)
    write_csv(root / "t.csv", written, root)
    read = read_csv(root / "t.csv", root)
    assert (read.guids, read.texts, read.tags) == (written.guids, written.texts, written.tags)
    assert read.image_paths == tuple(path.resolve() for path in paths)
    with open(root / "t.csv", newline="", encoding="utf-8") as file:
        plain = list(csv.DictReader(file))
    assert [row["image_path"] for row in plain] == [f"data/{i}.jpg" for i in range(len(rows))]


def hand_made(root: Path, content: str, name: str = "mine.csv") -> Path:
    path = root / name
    path.write_bytes(content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        'guid,text,image_path,label\n1,"a, b",data/1.jpg,positive\n',
        'Label;GUID;text;image_path;note\r\nPositive;1;"a, b";data\\1.jpg;x\r\n',
        "\ufeffguid\ttext\timage_path\tlabel\n1\ta, b\t./data/1.jpg\tpositive\n",
    ],
)
def test_files_made_by_hand_fit_in(root, content):
    read = read_csv(hand_made(root, content), root)
    assert (read.guids, read.texts, read.tags) == (("1",), ("a, b",), ("positive",))
    assert read.image_paths == ((root / "data" / "1.jpg").resolve(),)


def test_images_are_also_found_beside_the_csv_and_by_absolute_paths_inside(root, tmp_path):
    (tmp_path / "aug" / "images").mkdir(parents=True)
    fake_posts.picture(tmp_path / "aug" / "images" / "x.jpg", 5)
    content = f"guid,text,image_path\nx,a,images/x.jpg\n1,b,data/1.jpg\n2,c,{root / 'data' / '2.jpg'}\n"
    read = read_csv(hand_made(tmp_path / "aug", content), root)
    assert [path.name for path in read.image_paths] == ["x.jpg", "1.jpg", "2.jpg"] and read.labels is None
    write_csv(tmp_path / "aug" / "again.csv", read, root, {"source": ["a", "b", "c"]})
    assert read_csv(tmp_path / "aug" / "again.csv", root).image_paths == read.image_paths
    assert post_splits.read_column(tmp_path / "aug" / "again.csv", "source") == ["a", "b", "c"]
    assert post_splits.read_column(tmp_path / "aug" / "again.csv", "absent") == ["", "", ""]


def test_an_image_that_another_one_would_hide_is_not_written(root, tmp_path):
    (tmp_path / "aug" / "data").mkdir(parents=True)
    fake_posts.picture(tmp_path / "aug" / "data" / "1.jpg", 5)
    hidden = Posts(("x",), ("",), (tmp_path / "aug" / "data" / "1.jpg",), None)
    with pytest.raises(UserError, match="lies neither in"):
        write_csv(tmp_path / "aug" / "t.csv", hidden, root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("guid,txt,image_path\n1,a,data/1.jpg\n", "no column 'text'; did you mean 'txt'"),
        ("guid,text,image_path\n", "has no row"),
        ("", "no column 'guid'"),
        ("guid,text,image_path\n1,a\n", "line 2 does not have the 3 fields"),
        ("guid,text,image_path\n1,a,b,data/1.jpg\n", "line 2 does not have the 3 fields"),
        ('guid,text,image_path\n1,"a"b,data/1.jpg\n', "line 2 is not valid CSV"),
        ("guid,text,image_path\n1,a,data/1.jpg\n1,b,data/2.jpg\n", "guid '1' stands a second time, first in mine.csv line 2"),
        ("guid,text,image_path,label\n1,a,data/1.jpg,negativ\n", "unknown tag 'negativ'; did you mean 'negative'"),
        ("guid,text,image_path,label\n1,a,data/1.jpg,negative\n2,a,data/2.jpg,\n", "line 3 has no tag"),
        ("guid,text,image_path\n1,a,../outside.jpg\n", "leads out of"),
        ("guid,text,image_path\n1,a,/etc/hostname\n", "leads out of"),
        ("guid,text,image_path\n1,a,../absent.jpg\n", "leads out of"),
        ("guid,text,image_path\n1,a,data/x.jpg\n2,b,\n3,c,data/y.jpg\n", r"lacks 3 files of mine.csv: data/x.jpg, , data/y.jpg"),
    ],
)
def test_broken_csv_files_say_line_and_remedy(root, content, message):
    fake_posts.picture(root.parent / "outside.jpg", 3)
    with pytest.raises(UserError, match=message) as error:
        read_csv(hand_made(root, content), root)
    assert "\n" not in str(error.value)


def test_a_missing_csv_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_csv(tmp_path / "absent.csv")
