"""compare_with_baseline: the same test posts, paired tests, and 'better' only where it is shown."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_score, recall_score

from core.data import post_splits
from core.data.posts import CLASS_NAMES
from core.evaluation.compare import Interval, McNemar
from core.models.preprocessing import OLDER
from core.stages.posts import baseline, model
from core.stages.posts.config_tools import BaselineConfig
from tests.core.stages.posts import hardening
from tests.core.stages.tiny import refused


class Fixed:
    """Gives fixed predictions, by text."""

    class_names, image_size, preprocessing = CLASS_NAMES, 16, OLDER

    def __init__(self, said):
        self.said = said

    def probabilities(self, texts, images):
        return np.eye(3)[[self.said[text] for text in texts]] * 0.8 + 0.2 / 3


def record(folder, posts, tags=None):
    """Write what a training run keeps of its test part; return the folder."""
    (folder / "evaluation" / "test").mkdir(parents=True)
    with open(folder / "evaluation" / "test" / "predictions.csv", "w", newline="") as file:
        csv.writer(file).writerows([["guid", "true"], *zip(posts.guids, tags or posts.tags, strict=True)])
    return str(folder)


@pytest.fixture
def pair(workplace, monkeypatch):
    """Return options that compare a model right on all of 120 test posts with one that is wrong on a quarter."""
    posts = hardening.part(workplace.root, "train")
    rows = np.arange(120) % 36
    texts = tuple(f"{posts.texts[i]} no. {n}" for n, i in enumerate(rows))
    many = type(posts)(tuple(f"t{n}" for n in range(120)), texts, tuple(posts.image_paths[i] for i in rows), posts.labels[rows])
    path = workplace.folder / "test.csv"
    post_splits.write_csv(path, many, workplace.root)
    right = dict(zip(texts, many.labels.tolist(), strict=True))
    wrong = right | {text: (right[text] + 1) % 3 for text in texts[::4]}
    made = {"good": record(workplace.folder / "good", many), "bad": record(workplace.folder / "bad", many)}
    predictors = {made["good"]: Fixed(right), made["bad"]: Fixed(wrong)}
    monkeypatch.setattr(model, "open_predictor", lambda uri: predictors[uri])
    return workplace, many, made, {"test_csv": str(path), "data_root": str(workplace.root), "resamples": 200}


def compared(pair, new="good", old="bad", **options):
    workplace, _, made, given_ = pair
    run = workplace.run()
    config = BaselineConfig(**given_ | {"weights": made[new], "baseline_weights": made[old]} | options)
    return baseline.run(config, run), run.place / "comparison"


def answers_of(pair):
    _, many, made, _ = pair
    found = [model.open_predictor(made[name]).probabilities(many.texts, None) for name in ("bad", "good")]
    return many.labels, *found


def test_better_is_said_when_it_is_and_worse_the_other_way_round(pair, capsys):
    report, folder = compared(pair)
    assert report["verdict"] == "better" and report["posts"] == 120
    assert report["differences"]["accuracy"]["value"] == pytest.approx(0.25)
    # The 120 posts show 36 pictures: 9 of them, not 30 posts, speak for the candidate.
    assert report["groups"] == 36 and report["mcnemar"]["only_b"] == 9 and report["mcnemar"]["p_value"] == pytest.approx(2 / 2**9)
    assert report["mcnemar"]["p_holm"] == report["mcnemar"]["p_value"] and report["mcnemar"]["comparisons"] == 1
    labels, bad, _ = answers_of(pair)
    options = {"average": "macro", "zero_division": 0}
    assert report["scores"]["macro_precision"]["baseline"]["value"] == pytest.approx(precision_score(labels, bad.argmax(axis=1), **options))
    assert report["scores"]["macro_recall"]["baseline"]["value"] == pytest.approx(recall_score(labels, bad.argmax(axis=1), **options))
    assert report["metrics"]["comparison/macro_precision_difference"] == report["differences"]["macro_precision"]["value"]
    alone = baseline.judge(*answers_of(pair), BaselineConfig(resamples=200))
    assert alone["groups"] == 120 and alone["mcnemar"]["only_b"] == 30
    wide, narrow = (found["differences"]["accuracy"] for found in (report, alone))
    assert wide["high"] - wide["low"] > 1.4 * (narrow["high"] - narrow["low"])
    assert json.loads((folder / "comparison.json").read_text()) == report
    rows = hardening.rows(folder / "predictions.csv")
    assert sum(row["baseline"] != row["true"] for row in rows) == 30 and all(row["candidate"] == row["true"] for row in rows)
    assert (folder / "comparison.png").stat().st_size > 5000
    *_, tested, last = capsys.readouterr().out.splitlines()
    assert last == "macro f1: the candidate is better"
    assert "over 36 groups" in tested and tested.endswith("candidate alone 9, p = 0.00391 (Holm over 1 comparison 0.00391)")
    assert compared(pair, "bad", "good")[0]["verdict"] == "worse"


def test_equal_models_are_not_called_better(pair, capsys):
    report, _ = compared(pair, "good", "good")
    assert report["verdict"] == "no difference shown" and report["mcnemar"]["p_value"] == 1
    assert capsys.readouterr().out.splitlines()[-1] == "macro f1: no difference shown"


def test_each_option_has_its_effect(pair, tmp_path):
    report, _ = compared(pair)
    assert compared(pair, seed=2)[0]["differences"] != report["differences"]
    assert compared(pair, resamples=50)[0]["differences"] != report["differences"]
    assert compared(pair, metric="accuracy")[0]["metric"] == "accuracy"
    wide, narrow = (compared(pair, level=level)[0]["differences"]["accuracy"] for level in (0.99, 0.5))
    assert wide["high"] - wide["low"] > narrow["high"] - narrow["low"]
    compared(pair, output_dir=str(tmp_path / "out"))
    assert (tmp_path / "out" / "comparison.json").exists()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.floats(-0.2, 0.2), st.floats(0, 0.1), st.integers(0, 40), st.integers(0, 40), st.floats(0, 1), st.sampled_from(baseline.METRICS))
def test_better_needs_an_interval_above_zero_and_no_contradicting_test(value, half, only_a, only_b, p, metric):
    found = Interval(value, value - half, value + half, 0.95)
    said = baseline.verdict(metric, {metric: found}, McNemar(only_a, only_b, p), 0.05)
    if said == "better":
        assert found.low > 0 and not (p < 0.05 and only_a > only_b)
    if said == "worse":
        assert found.high < 0 and not (p < 0.05 and only_b > only_a)
    if metric == "accuracy" and p >= 0.05:
        assert said == "no difference shown"


def test_models_of_another_split_are_refused(pair):
    workplace, many, _made, _ = pair
    fewer = record(workplace.folder / "fewer", many.subset(range(1, 120)))
    said = refused(lambda: compared(pair, weights=fewer))
    assert "held out other test posts (1 differ: t0)" in said and said.endswith("compare models of one split")
    tags = ["neutral" if tag == "negative" else tag for tag in many.tags]
    other = record(workplace.folder / "other", many, tags)
    assert "by other labels" in refused(lambda: compared(pair, baseline_weights=other))
    (workplace.folder / "none" / "deep").mkdir(parents=True)
    said = refused(lambda: compared(pair, weights=str(workplace.folder / "none" / "deep")))
    assert "cannot be told; give a run of optimize_clip" in said


def test_models_of_other_classes_are_refused(pair, monkeypatch):
    monkeypatch.setattr(Fixed, "class_names", ("bad", "good"))
    assert "tells bad, good apart" in refused(lambda: compared(pair))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": ""}, "weights is empty; give a run"),
        ({"baseline_weights": ""}, "baseline_weights is empty"),
        ({"resamples": 0}, "resamples = 0"),
        ({"level": 1.0}, "level = 1.0"),
        ({"seed": -1}, "seed = -1"),
        ({"weights": "nowhere"}, "weights = 'nowhere' does not exist"),
    ],
)
def test_mistakes_are_one_line(pair, options, message):
    assert message in refused(lambda: compared(pair, **options))
