"""error_analysis: every group's errors, counted; of a classifier or of a list of bad cases."""

from __future__ import annotations

import json

import numpy as np
import pytest

from core.data import bad_cases
from core.data.bad_cases import BadCases
from core.stages.posts import error_analysis
from core.stages.posts.config_tools import ErrorAnalysisConfig
from tests.core.stages.posts import hardening
from tests.core.stages.tiny import refused


def analysed(workplace, **options):
    run = workplace.run()
    return error_analysis.run(ErrorAnalysisConfig(**workplace.data(**options)), run), run.place / "error_analysis"


def listed(workplace, name="train", rows=(4, 11)):
    posts = hardening.part(workplace.root, name).subset(rows)
    path = workplace.folder / "bad_cases.csv"
    predicted = tuple("positive" if tag == "negative" else "negative" for tag in posts.tags)
    bad_cases.write(path, BadCases(posts, predicted, np.full(len(rows), 0.8), ("wrong",) * len(rows)), workplace.root)
    return str(path)


def test_the_errors_of_a_classifier_are_counted_in_every_grouping(workplace, capsys):
    report, folder = analysed(workplace, weights="any", part="train")
    assert (report["overall"]["n"], report["overall"]["errors"]) == (36, 4)
    for title, rates in report["groups"].items():
        assert sum(rate["n"] for rate in rates) == 36 and sum(rate["errors"] for rate in rates) == 4, title
    assert [rate["group"] for rate in report["groups"]["characters of the text"]] == ["1-20", "21-50", "51-100", "over 100"]
    assert {rate["group"] for rate in report["groups"]["image area, terciles"]} == {"small", "medium", "large"}
    assert json.loads((folder / "errors.json").read_text()) == report
    assert {path.name for path in folder.iterdir()} == {"errors.json", "errors.csv", "predictions.csv", "error_rates.png", "confusion.png"}
    wrong = [row["guid"] for row in hardening.rows(folder / "predictions.csv") if row["true_label"] != row["pred_label"]]
    assert wrong == [str(i + 1) for i in hardening.MISLED]
    table = hardening.rows(folder / "errors.csv")
    assert table[0]["errors"] == "4" and table[0]["rate"] == f"{4 / 36:.6f}"
    assert capsys.readouterr().out.startswith("train: 4 errors in 36 posts, 0.111 [")


def test_mined_bad_cases_are_errors_among_all_that_were_mined(workplace):
    report, _ = analysed(workplace, badcase_csv=listed(workplace), part="train")
    assert (report["overall"]["n"], report["overall"]["errors"]) == (36, 2)


def test_each_option_has_its_effect(workplace, tmp_path):
    digests = [analysed(workplace, weights="any", part=part)[0]["data_digest"] for part in ("train", "val", "test")]
    assert len(set(digests)) == 3
    for part in ("train", "val", "test"):
        other = {f"{part}_csv": str(workplace.root / "csv" / ("val.csv" if part == "train" else "train.csv")), "part": part}
        assert analysed(workplace, weights="any", **other)[0]["data_digest"] == digests[1 if part == "train" else 0]
    analysed(workplace, weights="any", output_dir=str(tmp_path / "out"))
    assert (tmp_path / "out" / "errors.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either weights"),
        ({"weights": "any", "badcase_csv": "any"}, "one of the two"),
        ({"badcase_csv": "absent.csv", "part": "train"}, "badcase_csv = 'absent.csv' does not exist"),
    ],
)
def test_mistakes_are_one_line(workplace, options, message):
    assert message in refused(lambda: analysed(workplace, **options))


def test_bad_cases_of_another_part_or_without_prediction_are_refused(workplace):
    path = listed(workplace)
    assert "which are not in the test part; give the part that was mined" in refused(lambda: analysed(workplace, badcase_csv=path))
    with open(path) as file:
        text = file.read()
    with open(path, "w") as file:
        file.write(text.replace("positive", "?").replace("negative", "?", 1) if "?" not in text else text)
    said = refused(lambda: analysed(workplace, badcase_csv=path, part="train"))
    assert "unknown tag" in said or "no known pred_label" in said
