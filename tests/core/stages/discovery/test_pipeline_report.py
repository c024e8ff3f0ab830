"""What a pipeline leaves behind: figures at the number of classes, an answer of more clusters, exports that outlive a crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.clustering import n_classes
from core.evaluation import answer_files, discovery
from core.stages.discovery import exports, materials, pipeline_report
from tests.core.conftest import store_template  # noqa: F401  (fixture)
from tests.core.stages.discovery.short import discover, store_in
from tests.core.stages.discovery.test_answer import make_heap, told
from tests.core.stages.tiny import refused

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(store_template, tmp_path_factory):  # noqa: F811
    """Return a folder with a store, and a heap in heap/."""
    folder = tmp_path_factory.mktemp("reported")
    make_heap(folder)
    with pytest.MonkeyPatch.context() as patch:
        store_in(folder, store_template, patch)
        yield folder


def test_a_pipeline_that_is_stopped_between_two_exports_goes_on_and_others_are_refused(place: Path, tmp_path, monkeypatch, capsys):
    options = {"data_root": str(place / "heap"), "export": "folders,coco", "export_to": str(tmp_path / "out")}

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(exports._WRITERS, "coco", stopped)
    with pytest.raises(KeyboardInterrupt):
        discover(place, "stopped", **options)
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["folders"]
    monkeypatch.undo()
    rows = answer_files.rows_of(discover(place, "resumed", **options) / "assignments.csv")
    assert "left to be done is: export, pictures, registration, note" in capsys.readouterr().err
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["coco", "folders"]
    assert {path.parent.name for path in (tmp_path / "out" / "folders").rglob("*.png")} == {row["name"] for row in rows}
    assert len(json.loads((tmp_path / "out" / "coco" / "annotations.json").read_text())["images"]) == len(rows)
    assert "with the answer of another pipeline" in refused(lambda: discover(place, "other", **options, seed=2))


def test_the_answer_is_given_by_what_selection_prefers():
    figures = {
        way: {"val/accuracy_old": 0.5, "selection/silhouette": silhouette} for way, silhouette in (("kmeans", 0.2), ("classifier", 0.3))
    }
    assert pipeline_report.preferred(figures, "auto") == "classifier"
    assert pipeline_report.preferred(figures, "auto", over_cluster=2.0) == pipeline_report.preferred(figures, "kmeans") == "kmeans"
    figures["classifier"]["val/accuracy_old"] = 0.4
    assert pipeline_report.preferred(figures, "auto") == "kmeans" and pipeline_report.preferred(figures, "classifier") == "classifier"


def test_a_classifier_that_answers_is_the_registered_model_and_its_figures_are_the_selected_ones(place: Path, monkeypatch, capsys):
    monkeypatch.setattr(materials, "read", told(place / "heap", "true"))
    options = {"data_root": str(place / "heap"), "n_classes": 4, "objective": "both", "answers_by": "classifier"}
    folder = discover(place, "by classifier", **options)
    summary = json.loads((folder / "summary.json").read_text())
    table = summary["table"]
    assert summary["answers_by"] == "classifier" and list(table)[-3:] == [
        "selected model, by k-means",
        "selected model, by its classifier",
        "selected model",
    ]
    assert table["selected model"] == table["selected model, by its classifier"]
    last = table["after pseudo labels"]
    assert last["unlabelled/v2_all"] == last["classifier/unlabelled/v2_all"] == pytest.approx(table["selected model"]["unlabelled/v2_all"])
    assert table["before pseudo labels"]["unlabelled/v2_all"] == table["before pseudo labels"]["classifier/unlabelled/v2_all"]
    said = capsys.readouterr().out
    assert "the answer and the registered model are given by its classifier" in said and f"  {pipeline_report.MIXED}\n" in said


@pytest.mark.parametrize("by", ["kmeans", "classifier"])
def test_on_a_heap_ways_compare_at_the_classifier_s_number_and_the_page_says_whose_it_is(place: Path, monkeypatch, by):
    """The classifier has five classes; the last features speak for six."""
    monkeypatch.setattr(materials, "read", told(place / "heap", "true"))
    real = pipeline_report._Report.__init__

    def late(self, *given):
        with monkeypatch.context() as patch:
            patch.setattr(discovery, "count_classes", lambda *_: n_classes.Count(6, 5, 7, ()))
            real(self, *given)

    monkeypatch.setattr(discovery, "count_classes", lambda *_: n_classes.Count(5, 5, 7, ()))
    monkeypatch.setattr(pipeline_report._Report, "__init__", late)
    options = {"data_root": str(place / "heap"), "objective": "both", "answers_by": by, "pseudo_loss_weight": 0.0}
    folder = discover(place, f"heap by {by}", **options)
    table = json.loads((folder / "summary.json").read_text())["table"]
    n = {"kmeans": 6, "classifier": 5}[by]
    assert [table[f"selected model, by {way}"]["n_clusters"] for way in ("k-means", "its classifier")] == [5, 5]
    assert table["selected model"]["n_clusters"] == n == len(json.loads((folder / "model" / "model.json").read_text())["clusters"])
    page = (folder / "report.html").read_text()
    assert ("the classifier's, estimated when it was made" in page.replace("&#x27;", "'")) == (by == "classifier")


def test_more_clusters_are_the_answer_s_and_the_model_s_and_the_figures_stay_those_of_the_classes(place: Path, monkeypatch, capsys):
    monkeypatch.setattr(materials, "read", told(place / "heap", "true"))
    options = {"data_root": str(place / "heap"), "n_classes": 4, "suggest": 3}
    plain, over = (discover(place, f"times {factor}", **options, over_cluster=factor) for factor in (1.0, 2.0))
    tables = [json.loads((folder / "summary.json").read_text())["table"] for folder in (plain, over)]
    assert tables[0] == tables[1] and tables[1]["selected model"]["n_clusters"] == 4 and "unlabelled/v2_all" in tables[0]["selected model"]
    said = "8 clusters for 4 classes, for a person to merge (over_cluster = 2)"
    for folder, n in ((plain, 4), (over, 8)):
        assert len(json.loads((folder / "clusters.json").read_text())["clusters"]) == n
        assert len(json.loads((folder / "model" / "model.json").read_text())["clusters"]) == n
        assert len({row["cluster"] for row in answer_files.rows_of(folder / "assignments.csv")}) == n
        assert len(answer_files.rows_of(folder / "suggest.csv")) == 3
        assert (said in (folder / "report.html").read_text()) == (n == 8)
    assert capsys.readouterr().out.count(f"the answer and the registered model have {said}; the figures are at 4") == 1
