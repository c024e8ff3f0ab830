"""merge_badcase_aug: training posts and variants in, held-out posts never."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.data import bad_cases, post_splits
from core.data.bad_cases import BadCases
from core.data.posts import Fingerprint, Posts, fingerprint
from core.errors import UserError
from core.stages.posts import augment, merge
from core.stages.posts.config_tools import AugmentImagesConfig, AugmentTextsConfig, MergeConfig
from core.stages.posts.merge import Rows
from tests.core.data import fake_posts
from tests.core.stages.posts import hardening
from tests.core.stages.tiny import refused


@pytest.fixture
def made(workplace):
    """Return the options of a merge of two bad cases with an image and a text variant each."""
    posts = hardening.part(workplace.root, "train").subset([4, 11])
    folder = workplace.folder / "made"
    folder.mkdir()
    bad_cases.write(
        folder / "bad_cases.csv", BadCases(posts, ("neutral",) * 2, np.full(2, 0.9), ("wrong", "low confidence")), workplace.root
    )
    given = {"badcase_csv": str(folder), "data_root": str(workplace.root), "output_dir": str(folder)}
    augment.run_images(AugmentImagesConfig(**given), workplace.run())
    augment.run_texts(AugmentTextsConfig(**given), workplace.run())
    return {
        "badcase_csv": str(folder / "bad_cases.csv"),
        "badcase_image_csv": str(folder / "badcase_augmented.csv"),
        "badcase_text_csv": str(folder / "badcase_text_aug.csv"),
    }


def merged(workplace, **options):
    run = workplace.run()
    return merge.run(MergeConfig(**workplace.data(**options)), run), run.place / "train_aug"


def test_each_row_says_where_it_comes_from(workplace, made, capsys):
    report, folder = merged(workplace, **made)
    table = hardening.rows(folder / "train_aug.csv")
    assert list(table[0]) == ["guid", "text", "image_path", "label", "source_guid", "origin", "reason"]
    assert report["by_origin"] == {"original": 36, "badcase_image": 2, "badcase_text": 2} and report["dropped"] == {}
    assert [row["guid"] for row in table[36:]] == ["5-image1", "12-image1", "5-text1", "12-text1"]
    assert [row["source_guid"] for row in table[36:]] == ["5", "12", "5", "12"]
    assert [row["reason"] for row in table[36:]] == ["wrong", "low confidence"] * 2
    assert table[4]["reason"] == "wrong" and table[0]["reason"] == "" and table[0]["source_guid"] == "1"
    assert table[36]["image_path"] == "images/5-image1.jpg" and (folder / "images" / "5-image1.jpg").exists()
    posts = post_splits.read_csv(folder / "train_aug.csv", workplace.root)
    assert len(posts) == report["posts"] == 40 and posts.texts[:36] == hardening.part(workplace.root, "train").texts
    said = capsys.readouterr().out.splitlines()
    assert said[-2].startswith("40 posts to train on (original 36, badcase_image 2, badcase_text 2)") and said[-1].endswith("none")


def test_each_option_has_its_effect(workplace, made, tmp_path):
    assert merged(workplace, badcase_image_csv=made["badcase_image_csv"])[0]["by_origin"] == {"original": 36, "badcase_image": 2}
    report, _ = merged(workplace, badcase_text_csv=made["badcase_text_csv"], output_dir=str(tmp_path / "out"))
    assert report["by_origin"] == {"original": 36, "badcase_text": 2}
    assert {row["reason"] for row in hardening.rows(tmp_path / "out" / "train_aug.csv")} == {""}
    fewer = tmp_path / "fewer.csv"
    post_splits.write_csv(fewer, hardening.part(workplace.root, "train").subset(range(20)), workplace.root)
    assert merged(workplace, **made, train_csv=str(fewer))[0]["by_origin"]["original"] == 20


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("how", ["guid", "image", "similar image", "text"])
def test_a_held_out_post_is_refused_by_name_whatever_it_is_known_by(workplace, part, how):
    """A post that is new to training (no source) may share nothing with a held-out one."""
    held_out = hardening.part(workplace.root, part).subset([0])
    strange = hardening.part(workplace.root, "train").subset([0])
    path = workplace.folder / "smuggled.jpg"
    shutil.copyfile(held_out.image_paths[0], path)
    if how == "similar image":
        saved_again(held_out.image_paths[0], path)
    guid = held_out.guids[0] if how == "guid" else "new"
    text = f"  {held_out.texts[0].upper()} https://t.co/abc" if how == "text" else "nobody ever said this before"
    image = path if how in ("image", "similar image") else own_picture(workplace)
    posts = Posts((guid,), (text,), (image,), strange.labels)
    post_splits.write_csv(workplace.folder / "new.csv", posts, workplace.root)
    for option in ("badcase_image_csv", "badcase_text_csv"):
        said = refused(lambda option=option: merged(workplace, **{option: str(workplace.folder / "new.csv")}))
        name = {"val": "validation", "test": "test"}[part]
        assert f"{name} post {held_out.guids[0]} (same {how} as {guid})" in said and said.endswith("remove these rows")


def saved_again(given, path):
    """Save a picture in a manner that flips some bits of its look."""
    image = Image.open(given)
    for quality in range(99, 50, -1):
        image.save(path, quality=quality)
        before, after = (fingerprint(each).look for each in (given, path))
        if before != after:
            break
    assert 0 < (int(before, 16) ^ int(after, 16)).bit_count() <= 10


def own_picture(workplace):
    fake_posts.picture(workplace.folder / "own.jpg", 999)
    return workplace.folder / "own.jpg"


def test_variants_of_a_held_out_post_are_refused_though_nothing_looks_alike(workplace):
    posts = Posts(("x",), ("reworded beyond recognition",), (own_picture(workplace),), np.array([0], np.int64))
    post_splits.write_csv(workplace.folder / "v.csv", posts, workplace.root, {"source_guid": ["50"], "origin": ["badcase_text"]})
    said = refused(lambda: merged(workplace, badcase_text_csv=str(workplace.folder / "v.csv")))
    assert "rows that were made from test posts 50" in said


def test_training_rows_and_bad_cases_are_looked_at_too(workplace, made):
    test = hardening.part(workplace.root, "test").subset([0])
    listed = workplace.folder / "bad.csv"
    bad_cases.write(listed, BadCases(test, ("neutral",), np.ones(1), ("wrong",)), workplace.root)
    assert "holds test post 49 (same guid as 49)" in refused(lambda: merged(workplace, **made | {"badcase_csv": str(listed)}))
    posts = hardening.part(workplace.root, "train")
    path = workplace.folder / "train2.csv"
    post_splits.write_csv(path, posts, workplace.root, {"source_guid": ["", "49", *[""] * 34]})
    assert "train_csv holds rows that were made from test posts 49" in refused(lambda: merged(workplace, **made, train_csv=str(path)))
    post_splits.write_csv(path, hardening.part(workplace.root, "val"), workplace.root)
    assert "train_csv holds validation post 37" in refused(lambda: merged(workplace, **made, train_csv=str(path)))
    again = {"val_csv": str(workplace.root / "csv" / "train.csv"), "badcase_csv": ""}
    assert "train_csv holds validation post 1 " in refused(lambda: merged(workplace, **made | again))
    again = {"test_csv": str(workplace.root / "csv" / "train.csv"), "badcase_csv": ""}
    assert "train_csv holds test post 1 " in refused(lambda: merged(workplace, **made | again))


def test_a_variant_that_comes_to_read_like_a_held_out_post_is_left_out_and_counted(workplace, capsys):
    train, test = hardening.part(workplace.root, "train"), hardening.part(workplace.root, "test")
    posts = Posts(("1-a", "1-b"), (test.texts[0].upper(), "quite another text"), train.image_paths[:1] * 2, train.labels[[0, 0]])
    path = workplace.folder / "v.csv"
    post_splits.write_csv(path, posts, workplace.root, {"source_guid": ["1", "1"], "origin": ["badcase_text"] * 2})
    report, folder = merged(workplace, badcase_text_csv=str(path))
    assert report["dropped"] == {"text": 1} and report["by_origin"]["badcase_text"] == 1
    assert [row["guid"] for row in hardening.rows(folder / "train_aug.csv")][36:] == ["1-b"]
    assert capsys.readouterr().out.endswith("a held-out post is like them: 1 by text\n")


def test_a_flip_that_looks_like_a_held_out_post_is_left_out_but_its_very_file_is_refused(workplace):
    train, test = hardening.part(workplace.root, "train"), hardening.part(workplace.root, "test")
    again = workplace.folder / "again.jpg"
    saved_again(test.image_paths[0], again)
    path = workplace.folder / "v.csv"
    for image, outcome in ((again, "dropped"), (test.image_paths[0], "refused")):
        posts = Posts(("1-a",), train.texts[:1], (image,), train.labels[:1])
        post_splits.write_csv(path, posts, workplace.root, {"source_guid": ["1"]})
        if outcome == "dropped":
            assert merged(workplace, badcase_image_csv=str(path))[0]["dropped"] == {"similar image": 1}
        else:
            assert "test post 49 (same image as 1-a)" in refused(lambda: merged(workplace, badcase_image_csv=str(path)))


def test_tables_that_contradict_the_training_posts_are_refused(workplace, made):
    train = hardening.part(workplace.root, "train")
    path = workplace.folder / "v.csv"

    def said(guid, source, label, **options):
        posts = Posts((guid,), ("quite another text",), train.image_paths[:1], np.array([label], np.int64))
        post_splits.write_csv(path, posts, workplace.root, {"source_guid": [source]})
        return refused(lambda: merged(workplace, badcase_text_csv=str(path), **options))

    assert "variant of 999, which is not in train_csv" in said("a", "999", 0)
    assert "labelled positive, the post 1 that it is made from negative" in said("a", "1", 2)
    assert "guids stand in more than one row: 2;" in said("2", "1", 0)
    assert "variant of 1, which is not in badcase_csv" in said("a", "1", 0, badcase_csv=made["badcase_csv"])
    assert "there is nothing to merge" in refused(lambda: merged(workplace))
    path.write_text("guid,text,image_path,label\na,b,data/1.jpg,null\n")
    assert "has no labels" in refused(lambda: merged(workplace, badcase_text_csv=str(path)))


def test_an_empty_table_of_variants_is_no_mistake(workplace):
    path = workplace.folder / "v.csv"
    path.write_text("guid,text,image_path,label,source_guid,origin\n")
    assert merged(workplace, badcase_text_csv=str(path))[0]["by_origin"] == {"original": 36}


@dataclass(frozen=True, eq=False)
class Marked(Posts):
    """Posts whose pictures are two small numbers, told by the path `content-look`: looks 2n and 2n+1 differ in one bit."""

    @property
    def fingerprints(self):
        pairs = [str(path).split("-") for path in self.image_paths]
        return tuple(Fingerprint(content, look and self.look(int(look))) for content, look in pairs)

    @staticmethod
    def look(number: int) -> str:
        bits = int.from_bytes(np.random.default_rng(number // 2).bytes(32)) ^ number % 2
        return f"{bits:064x}"

    def subset(self, indices):
        found = Posts.subset(self, indices)
        return Marked(found.guids, found.texts, found.image_paths, found.labels)


POST = st.tuples(st.integers(0, 30), st.integers(0, 25), st.integers(0, 25), st.integers(0, 25), st.integers(0, 12))


def table(found, first: int) -> tuple[Marked, list[str]]:
    """Return posts with guids, texts and pictures of small numbers, and their sources."""
    unique = {first + guid: rest for guid, *rest in found}
    posts = Marked(
        tuple(map(str, unique)),
        tuple(f"Text {text}" for text, *_ in unique.values()),
        tuple(f"{content}-{look or ''}" for _, content, look, _ in unique.values()),
        np.zeros(len(unique), np.int64),
    )
    return posts, [str(source) for *_, source in unique.values()]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.lists(POST, max_size=6), st.lists(POST, min_size=1, max_size=4), st.lists(POST, max_size=6), st.integers(0, 60))
def test_nothing_held_out_ever_comes_in(train, held_out, variants, first):
    train, _ = table(train, 0)
    held_out, _ = table(held_out, 20)
    variants, sources = table(variants, first)
    rows = Rows(variants, tuple(sources), ("badcase_text",) * len(variants))
    merge_posts = pytest.MonkeyPatch()
    merge_posts.setattr(merge, "Posts", Marked)
    try:
        found, dropped = merge.merge(Rows(train, train.guids, ("original",) * len(train)), [rows], {"test": held_out}, None)
    except UserError as error:
        assert "\n" not in str(error)
        return
    finally:
        merge_posts.undo()
    assert found.posts.guids[: len(train)] == train.guids and sum(dropped.values()) == len(train) + len(variants) - len(found.posts)
    theirs = {"guid": set(held_out.guids)} | {kind: set(keys) - {""} for kind, keys in post_splits.keys_of(held_out).items()}
    ours = {"guid": found.posts.guids} | post_splits.keys_of(found.posts)
    assert not any(set(ours[kind]) & theirs[kind] for kind in theirs)
    flipped = {f"{int(look, 16) ^ 1:064x}" for look in theirs["similar image"]}
    assert not flipped & set(ours["similar image"])
    assert not set(found.sources) & set(held_out.guids)
