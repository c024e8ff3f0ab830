"""robustness_test on tiny posts with a classifier whose behaviour is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from core.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from core.data.text_corruptions import TEXT_CORRUPTIONS, corrupt_text
from core.stages.posts import robustness
from core.stages.posts.config_tools import RobustnessConfig
from tests.core.stages.posts import hardening
from tests.core.stages.tiny import refused


def measured(workplace, **options):
    run = workplace.run()
    given = workplace.data(weights="any", corruptions="jpeg,dropped_words") | options
    return robustness.run(RobustnessConfig(**given), run), run


def test_every_corruption_has_a_cell_for_each_severity(workplace, capsys):
    report, run = measured(workplace, corruptions="")
    cells = {(cell["kind"], cell["corruption"], cell["severity"]) for cell in report["cells"]}
    known = [("image", name) for name in CORRUPTIONS] + [("text", name) for name in TEXT_CORRUPTIONS]
    assert len(CORRUPTIONS) >= 8 and cells == {(*one, severity) for one in known for severity in SEVERITIES}
    folder = run.place / "robustness"
    stored = json.loads((folder / "robustness.json").read_text())
    assert stored["cells"] == report["cells"] and stored["posts"] == 12 and stored["part"] == "test"
    table = hardening.rows(folder / "robustness.csv")
    assert len(table) == 1 + len(cells) and table[0]["kind"] == "clean"
    assert (folder / "robustness.png").stat().st_size > 10_000 and (run.place / "manifest.json").exists()
    said = capsys.readouterr().out
    assert "mean corruption error, image" in said and "motion_blur" in said and said.count("\n") < 30


def test_a_cell_is_the_score_on_the_damaged_posts(workplace):
    report, _ = measured(workplace, seed=3)
    posts = hardening.part(workplace.root, "test")
    texts = [corrupt_text(text, "dropped_words", 4, 3, guid) for text, guid in zip(posts.texts, posts.guids, strict=True)]
    images = hardening.images_of(posts, 16)
    predicted = workplace.predictor.probabilities(texts, images).argmax(axis=1)
    (cell,) = [cell for cell in report["cells"] if (cell["corruption"], cell["severity"]) == ("dropped_words", 4)]
    assert cell["accuracy"] == pytest.approx((predicted == posts.labels).mean())
    assert cell["macro_f1"] == pytest.approx(f1_score(posts.labels, predicted, average="macro"))
    assert 0 < cell["accuracy"] < 1


def test_images_are_damaged_at_the_models_size_and_texts_are_left_alone_then(workplace):
    import torch

    measured(workplace, corruptions="contrast", seed=2)
    posts = hardening.part(workplace.root, "test")
    clean, *damaged = workplace.predictor.asked
    assert all(texts == posts.texts for texts, _ in damaged) and len(damaged) == 5
    expected = corrupt(torch.from_numpy(clean[1]), "contrast", 5, 2, posts.guids)
    np.testing.assert_array_equal(damaged[4][1], expected.numpy())


def test_what_a_classifier_does_not_look_at_is_not_damaged(workplace):
    workplace.predictor.needs_images = False
    report, _ = measured(workplace)
    assert {cell["kind"] for cell in report["cells"]} == {"text"} and "image" not in report["summary"]
    assert "the classifier sees text only" in refused(lambda: measured(workplace, corruptions="jpeg"))


def test_posts_that_a_corruption_leaves_alone_are_not_asked_again(workplace):
    report, _ = measured(workplace, corruptions="emoji_removed")
    assert len(workplace.predictor.asked) == 1  # none of the texts holds an emoji
    assert {cell["accuracy"] for cell in report["cells"]} == {report["clean"]["accuracy"]["value"]}


def test_mean_corruption_errors_equal_the_plain_formula():
    cells = [
        {"kind": kind, "corruption": name, "severity": s, "accuracy": value}
        for kind, name, values in (("image", "a", (0.8, 0.6)), ("image", "b", (0.7, 0.5)), ("text", "c", (0.9, 0.7)))
        for s, value in enumerate(values, 1)
    ]
    found = robustness.summarise(cells, 0.8)
    assert found["image"]["mean_corruption_error"] == pytest.approx((0.3 + 0.4) / 2)
    assert found["all"]["mean_corruption_error"] == pytest.approx((0.3 + 0.4 + 0.2) / 3)
    assert found["text"] == pytest.approx({"mean_corruption_error": 0.2, "error_increase": 0.0, "error_ratio": 1.0})
    assert robustness.summarise(cells, 1.0)["text"]["error_ratio"] is None
    assert "text" not in robustness.summarise(cells[:2], 0.8)


def test_each_option_has_its_effect(workplace, tmp_path):
    report, _ = measured(workplace)
    other, _ = measured(workplace, part="val")
    assert other["data_digest"] != report["data_digest"] and other["part"] == "val"
    assert measured(workplace, test_csv=str(workplace.root / "csv" / "val.csv"))[0]["data_digest"] == other["data_digest"]
    swapped = {"part": "val", "val_csv": str(workplace.root / "csv" / "test.csv")}
    assert measured(workplace, **swapped)[0]["data_digest"] == report["data_digest"]
    assert measured(workplace, seed=5)[0]["cells"] != report["cells"]
    assert measured(workplace, max_posts=7)[0]["posts"] == 7
    assert {cell["corruption"] for cell in report["cells"]} == {"jpeg", "dropped_words"}
    measured(workplace, output_dir=str(tmp_path / "out" / "here"))
    assert {path.name for path in (tmp_path / "out" / "here").iterdir()} == {"robustness.json", "robustness.csv", "robustness.png"}


def test_the_same_seed_gives_the_same_bytes(workplace):
    _, one = measured(workplace)
    _, two = measured(workplace)
    for name in ("robustness.json", "robustness.csv", "robustness.png"):
        assert (one.place / "robustness" / name).read_bytes() == (two.place / "robustness" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corruptions": "jpg"}, "there is no 'jpg'; did you mean 'jpeg'?"),
        ({"max_posts": -1}, "give 0 or more"),
        ({"seed": -1}, "give 0 or more"),
        ({"data_dir": ""}, "no test posts are named; give test_csv"),
        ({"data_dir": "nowhere"}, "data_dir = 'nowhere' does not exist"),
    ],
)
def test_mistakes_are_one_line(workplace, options, message):
    assert message in refused(lambda: measured(workplace, **options))
    assert not workplace.predictor.asked
