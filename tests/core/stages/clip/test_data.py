"""Class folders, sentences and groups: what is read, and what is refused by name."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from core.stages.clip import data
from tests.core.stages.clip import tiny_clip
from tests.core.stages.tiny import refused

NAMES = ("bar", "cross")


def config(folder, texts, **options) -> SimpleNamespace:
    return SimpleNamespace(
        **{"data_dir": str(folder), "class_texts_file": str(texts), "group_pattern": "", "groups_file": "", "group_column": "group"}
        | options
    )


@pytest.fixture
def texts(tmp_path):
    return tiny_clip.write_sentences(tmp_path / "sentences.json")


def test_class_folders_are_one_pool(clip_images, texts):
    pool = data.load(config(clip_images, texts))
    assert pool.class_names == ("bar", "cross", "dot", "ring") and pool.name == "glyphs"
    assert np.bincount(pool.images.labels).tolist() == [14, 10, 8, 6] and set(pool.part) == {""}
    assert pool.images.ids[0] == "bar/00_0.png" and pool.groups is None
    assert pool.sentences[1] == ("two thin lines that cross", "a cross") and pool.sentences[0] == (tiny_clip.SENTENCES["bar"],)


def test_parts_are_kept(tmp_path, texts):
    for part, seed in (("train", 1), ("val", 2), ("test", 3)):
        tiny_clip.make_images(tmp_path / "set" / part, dict.fromkeys(tiny_clip.COUNTS, 3), seed)
    pool = data.load(config(tmp_path / "set", texts))
    assert pool.part.tolist() == ["train"] * 12 + ["val"] * 12 + ["test"] * 12 and pool.images.ids[12] == "val/bar/00_0.png"


def test_a_subset_is_the_images_at_its_rows(clip_images, texts):
    pool = data.load(config(clip_images, texts))
    part = pool.subset(np.array([3, 20]))
    assert part.ids == (pool.images.ids[3], pool.images.ids[20]) and part.labels.tolist() == [0, 1]
    assert np.array_equal(part.source.load(np.array([1]))[0], pool.images.source.load(np.array([20]))[0])


def test_the_digest_follows_images_and_sentences(clip_images, tmp_path, texts):
    digest = data.load(config(clip_images, texts)).digest
    other = tiny_clip.write_sentences(tmp_path / "other.json", tiny_clip.SENTENCES | {"bar": "a bar"})
    changed = tiny_clip.make_images(tmp_path / "glyphs", seed=7)
    assert digest == data.load(config(clip_images, texts)).digest
    assert len({digest, data.load(config(clip_images, other)).digest, data.load(config(changed, texts)).digest}) == 3


@pytest.mark.parametrize(
    "given, said",
    [
        ({"bar": "x"}, "no sentence for class 'cross'"),
        ({"bar": "x", "cross": "y", "crss": "z"}, "no images for the sentence of class 'crss'"),
        ({"bar": "x", "crss": "z"}, "no sentence for class 'cross'; no images for the sentence of class 'crss'"),
        ({"bar": "x", "cross": " "}, "class 'cross' needs a sentence"),
        ({"bar": "x", "cross": []}, "class 'cross' needs a sentence"),
        ({"bar": "x", "cross": 3}, "class 'cross' needs a sentence"),
        (["bar"], "holds no JSON object"),
    ],
)
def test_sentences_and_classes_must_fit(tmp_path, given, said):
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(given))
    assert said in refused(lambda: data.read_sentences(str(path), NAMES))


@pytest.mark.parametrize(
    "text, said", [("{", "no readable JSON"), ('{"bar": "x", "bar": "y"}', "names class 'bar' twice"), (None, "no readable")]
)
def test_a_file_that_is_no_object_is_refused(tmp_path, text, said):
    path = tmp_path / "texts.json"
    if text is not None:
        path.write_text(text)
    assert said in refused(lambda: data.read_sentences(str(path), NAMES))


def test_a_sentence_given_twice_counts_once(tmp_path):
    path = tiny_clip.write_sentences(tmp_path / "texts.json", {"bar": ["x ", "x", "y"], "cross": "z"})
    assert data.read_sentences(str(path), NAMES) == (("x", "y"), ("z",))


def test_a_pattern_groups_across_classes(clip_images, texts):
    pool = data.load(config(clip_images, texts, group_pattern=r"/(\d+)_"))
    numbers = [identity.split("/")[1][:2] for identity in pool.images.ids]
    for number in set(numbers):
        rows = [i for i, found in enumerate(numbers) if found == number]
        assert len(set(pool.groups[rows])) == 1
    assert len(set(pool.groups)) == len(set(numbers))


def test_an_image_without_match_is_a_group_of_its_own(clip_images, texts):
    pool = data.load(config(clip_images, texts, group_pattern=r"^(bar)/"))
    assert len(set(pool.groups)) == 1 + 24


def test_groups_come_from_a_table(clip_images, texts, tmp_path):
    ids = data.load(config(clip_images, texts)).images.ids
    (tmp_path / "g.csv").write_text("image_path,leaf\n" + "".join(f"{name},{i // 10}\n" for i, name in enumerate(ids)))
    pool = data.load(config(clip_images, texts, groups_file=str(tmp_path / "g.csv"), group_column="leaf"))
    assert pool.groups.tolist() == [i // 10 for i in range(38)]
    (tmp_path / "short.csv").write_text(f"image_path,group\n{ids[0]},1\n")
    assert "no group for 37 images" in refused(lambda: data.load(config(clip_images, texts, groups_file=str(tmp_path / "short.csv"))))
    assert "no column photo" in refused(
        lambda: data.load(config(clip_images, texts, groups_file=str(tmp_path / "g.csv"), group_column="photo"))
    )


def test_a_pattern_that_matches_nothing_is_refused(clip_images, texts):
    assert "matches no image" in refused(lambda: data.load(config(clip_images, texts, group_pattern="(leaf)")))


def test_a_missing_folder_and_a_broken_image_are_named(clip_images, texts, tmp_path):
    assert "is no folder" in refused(lambda: data.load(config(tmp_path / "nowhere", texts)))
    folder = tiny_clip.make_images(tmp_path / "set")
    (folder / "dot" / "00_1.png").write_bytes(b"")
    assert "dot/00_1.png" in refused(lambda: data.load(config(folder, texts)))
