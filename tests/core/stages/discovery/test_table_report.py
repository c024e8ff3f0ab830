"""What a table says: means without superclasses that served for choosing, differences pair by pair, what does not apply left out."""

from __future__ import annotations

import csv
from types import SimpleNamespace
from typing import Any

import pytest

from core.stages.discovery import table_report


def summary(all_: float, new: float | None, arm: str = "contrast") -> dict[str, Any]:
    metrics = {
        f"{where}/v2_{part}": value for where in ("unlabelled", "test") for part, value in (("all", all_), ("old", 0.5), ("new", new))
    }
    told = {name: value for name, value in metrics.items() if value is not None}
    metrics = told | {f"classifier/{name}": value - 0.25 for name, value in told.items()}
    return {"arm": arm, "metrics": metrics, "history": [[0, told]]}


def test_superclasses_that_served_for_choosing_are_in_no_mean_and_what_does_not_apply_is_left_out():
    made = table_report.Table(["furniture"], "contrast")
    for seed in (1, 2):
        for name, shift, new in (("furniture", 0.4, 0.9), ("trees", 0.0, 0.2), ("containers", 0.1, None)):
            made.add(name, seed, "contrast", summary(0.3 + shift, new))
            made.add(name, seed, "both", summary(0.4 + 2 * shift, None if new is None else new + 0.1))
    assert made.superclasses == ["trees", "containers", "furniture"]
    gap = made.differences("test", "all")["both", "contrast"]
    assert gap.by_problem == pytest.approx({"trees": 0.1, "containers": 0.2}) and gap.n_pairs == 4
    assert made.differences("test", "new")["both", "contrast"].by_problem == pytest.approx({"trees": 0.1})
    assert made.metrics()["test/v2_all/both"] == pytest.approx((0.4 + 0.6) / 2)
    text = made.markdown()
    assert "| *furniture* (chosen on) |" in text and "0.300/0.500/0.200" in text and "0.400/0.500/n/a" in text


def test_files_hold_every_figure_and_the_ceiling_has_none_on_what_it_has_learnt(tmp_path):
    made = table_report.Table([], "contrast")
    for arm in ("frozen", "contrast", "simgcd", "both", "ceiling"):
        made.add("trees", 1, arm, summary(0.5, 0.25))
    assert made.names == ["frozen", "contrast", "both", "both, argmax", "simgcd", "ceiling"]
    assert ("both", "simgcd") in made.pairs and ("ceiling", "both, argmax") in made.pairs and ("simgcd", "contrast") in made.pairs
    made.write(tmp_path)
    made.draw(tmp_path / "plots")
    rows = list(csv.DictReader((tmp_path / "table" / "figures.csv").open()))
    assert len(rows) == 2 * 6 - 1 and {row["images"] for row in rows if row["arm"] == "ceiling"} == {"test"}
    assert (tmp_path / "plots" / "arms.png").stat().st_size > 10_000
    assert {gap["mean"] for gap in made.differences_as_json()} == {0.0, 0.25, -0.25}
    legend = (tmp_path / "table" / "table.md").read_text().splitlines()[-1]
    assert legend.startswith("frozen = the pretrained features as they are; contrast = ") and "argmax = the classifier's own" in legend


def test_a_cell_is_told_in_a_few_words():
    said = {arm: table_report.short(SimpleNamespace(summary=summary(0.5, None, arm))) for arm in ("contrast", "simgcd", "ceiling")}
    assert said["contrast"] == "unlabelled 0.500/0.500/n/a, test 0.500/0.500/n/a"
    assert said["simgcd"] == "unlabelled 0.250/0.250/n/a, test 0.250/0.250/n/a" and said["ceiling"] == "test 0.250/0.250/n/a"


def test_without_novel_classes_the_table_is_written_and_nothing_is_drawn(tmp_path):
    made = table_report.Table([], "contrast")
    for arm in ("contrast", "both", "both+pseudo"):
        made.add("buildings", 1, arm, summary(0.5, None))
    assert ("both+pseudo, argmax", "both, argmax") in made.pairs and ("both+pseudo", "both") in made.pairs
    made.write(tmp_path)
    made.draw(tmp_path / "plots")
    assert "0.500/0.500/n/a" in (tmp_path / "table" / "table.md").read_text() and not list((tmp_path / "plots").iterdir())


def test_a_mean_is_of_all_superclasses_or_not_given(tmp_path):
    made = table_report.Table([], "contrast")
    for name, new in (("trees", 0.5), ("buildings", None)):
        made.add(name, 1, "contrast", summary(0.5, new))
    assert "test/v2_all/contrast" in made.metrics() and "test/v2_new/contrast" not in made.metrics()
    assert "| **mean of 2** | 0.500/0.500/n/a |" in made.markdown()


def test_superclasses_that_all_served_for_choosing_have_no_mean_and_it_is_said():
    made = table_report.Table(["furniture"], "contrast")
    for arm in ("contrast", "both"):
        made.add("furniture", 1, arm, summary(0.5, 0.5))
    assert not made.metrics() and not made.differences_as_json()
    assert "All of them served for choosing (chosen_on): there is no mean" in made.markdown()
