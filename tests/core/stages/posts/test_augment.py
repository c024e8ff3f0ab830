"""augment_bad_cases and augment_bad_cases_text on tiny bad cases."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from core.data import bad_cases, post_augment, post_splits
from core.data.bad_cases import BadCases
from core.stages.posts import augment
from core.stages.posts.config_tools import AugmentImagesConfig, AugmentTextsConfig
from tests.core.stages.posts import hardening
from tests.core.stages.tiny import refused

KINDS = (("image", AugmentImagesConfig, augment.run_images), ("text", AugmentTextsConfig, augment.run_texts))


@pytest.fixture
def listed(workplace):
    """Return the path of a bad_cases.csv of three training posts."""
    posts = hardening.part(workplace.root, "train").subset([4, 11, 18])
    path = workplace.folder / "bad" / "bad_cases.csv"
    path.parent.mkdir()
    bad_cases.write(path, BadCases(posts, ("neutral",) * 3, np.full(3, 0.9), ("wrong",) * 3), workplace.root)
    return path


def images(workplace, path, **options):
    run = workplace.run()
    config = AugmentImagesConfig(badcase_csv=str(path), data_root=str(workplace.root), **options)
    return augment.run_images(config, run), run.place / "badcase_aug"


def texts(workplace, path, **options):
    run = workplace.run()
    config = AugmentTextsConfig(badcase_csv=str(path), data_root=str(workplace.root), **options)
    return augment.run_texts(config, run), run.place / "badcase_text_aug"


def test_image_variants_are_posts_with_other_pixels_and_the_same_words(workplace, listed, capsys):
    report, folder = images(workplace, listed, num_aug=2, seed=3)
    table = hardening.rows(folder / "badcase_augmented.csv")
    assert [row["guid"] for row in table] == ["5-image1", "5-image2", "12-image1", "12-image2", "19-image1", "19-image2"]
    assert {row["origin"] for row in table} == {"badcase_image"} and table[0]["source_guid"] == "5"
    posts = post_splits.read_csv(folder / "badcase_augmented.csv", workplace.root)
    source = hardening.part(workplace.root, "train")
    assert posts.texts[0] == source.texts[4] and posts.labels[0] == source.labels[4]
    expected = post_augment.augment_image(source.images().load(np.array([4]))[0], 2, 3, "5")
    for path, pixels in zip(posts.image_paths, expected, strict=False):
        seen = np.asarray(Image.open(path)).astype(int)
        assert seen.shape == pixels.shape and np.abs(seen - pixels).mean() < 6  # JPEG
    assert report["variants"] == 6 and capsys.readouterr().out.startswith("6 image variants of 3 bad cases")


def test_text_variants_say_something_else_about_the_same_picture(workplace, listed, capsys):
    report, folder = texts(workplace, listed, num_aug=3)
    posts = post_splits.read_csv(folder / "badcase_text_aug.csv", workplace.root)
    assert posts.guids[0] == "5-text1" and posts.image_paths[0] == workplace.root / "data" / "5.jpg"
    source = hardening.part(workplace.root, "train")
    said = [post_splits.normalise(text) for text in (source.texts[4], *posts.texts[:3])]
    assert len(set(said)) == 4 or report["unchanged"]
    assert report["variants"] + report["unchanged"] == 9 and "text variants of 3 bad cases" in capsys.readouterr().out


def test_variants_that_say_the_same_are_left_out_and_counted(workplace, listed):
    (workplace.root / "data" / "5.txt").write_text("12345")  # nothing in it can be said otherwise
    report, folder = texts(workplace, listed, num_aug=2)
    assert report["unchanged"] >= 2 and "5" not in {row["source_guid"] for row in hardening.rows(folder / "badcase_text_aug.csv")}


@pytest.mark.parametrize(("kind", "config", "stage"), KINDS)
def test_seed_and_output_folder_have_their_effect(workplace, listed, tmp_path, kind, config, stage):
    made = {}
    for name, options in (("one", {}), ("again", {}), ("other", {"seed": 2})):
        given = {"badcase_csv": str(listed), "data_root": str(workplace.root), "output_dir": str(tmp_path / name), "num_aug": 2}
        stage(config(**given | options), workplace.run())
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        made[name] = [path.read_bytes() for path in files]
    assert made["one"] == made["again"] != made["other"]


def test_a_file_made_by_hand_fits_in(workplace):
    path = workplace.root / "my.csv"
    path.write_text("guid;true_label;text_path;image_path\n1;negative;data\\1.txt;data\\1.jpg\n")
    report, folder = images(workplace, path)
    assert report["variants"] == 1
    assert hardening.rows(folder / "badcase_augmented.csv")[0]["label"] == "negative"


def test_no_bad_case_makes_no_variant(workplace, listed):
    listed.write_text("guid,true_label,text_path,image_path\n")
    for make, name in ((images, "badcase_augmented.csv"), (texts, "badcase_text_aug.csv")):
        report, folder = make(workplace, listed)
        assert report["variants"] == 0 and hardening.rows(folder / name) == []


def test_mistakes_are_one_line(workplace, listed):
    assert "badcase_csv names no file" in refused(lambda: images(workplace, ""))
    assert "give num_aug 1 or more" in refused(lambda: texts(workplace, listed, num_aug=0))
    assert "seed 0 or more" in refused(lambda: texts(workplace, listed, seed=-1))
    (workplace.root / "data" / "12.jpg").write_bytes(b"broken")
    assert "12.jpg: not a readable image" in refused(lambda: images(workplace, listed))
    (workplace.root / "data" / "12.jpg").unlink()
    (workplace.root / "data" / "19.txt").unlink()
    said = refused(lambda: images(workplace, listed))
    assert "lacks 2 files of bad_cases.csv: data/19.txt, data/12.jpg" in said
