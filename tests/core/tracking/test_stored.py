"""Runs of the store that another process may hold: found by tags, added to, ended."""

from __future__ import annotations

import pytest

from core.tracking import run as tracking
from core.tracking.stored import StoredRun


@pytest.fixture
def parent(client):
    """A run of this process with three children: one finished and tagged, one running and tagged, one running without the tag."""
    with tracking.open_run("tune_x", "study") as run:
        children = [tracking.open_child(run.run_id, name, "train_x", tags) for name, tags in (("a", {"t": 1}), ("b", {"t": 2}), ("c", {}))]
        children[0].finish()
        yield run, [child.run_id for child in children]
        for child in children[1:]:
            child.finish()


def test_a_run_is_found_by_all_of_its_tags_once_it_is_finished(parent):
    _run, (finished, _running, _untagged) = parent
    assert StoredRun.finished_with({"t": "1", "taxon.entry_point": "train_x"}).run_id == finished
    assert StoredRun.finished_with({"t": "1", "taxon.entry_point": "other"}) is None
    assert StoredRun.finished_with({"t": "2"}) is None
    assert [StoredRun(run_id).status for run_id in (finished, _running, "0" * 32)] == ["FINISHED", "RUNNING", ""]


def test_children_that_run_and_have_the_tag(parent):
    run, (_finished, running, _untagged) = parent
    assert StoredRun(run.run_id).running_below("t") == [running]


def test_a_deleted_run_has_no_status(parent, client):
    _run, (finished, *_) = parent
    client.delete_run(finished)
    assert StoredRun(finished).status == ""


def test_values_are_logged_once_and_an_end_takes_the_reason_away(client, tmp_path):
    run = tracking.open_run("tune_x", "study")
    run.finish("FAILED", "no disk")
    stored = StoredRun(run.run_id)
    stored.missing_metrics({("best/v", 0): 0.5, ("best/v", 1): 0.6})
    stored.missing_metrics({("best/v", 1): 0.7, ("best/v", 2): 0.8})
    assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "best/v")] == [(0, 0.5), (1, 0.6), (2, 0.8)]
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "trials.csv").write_text("number\n")
    stored.folder(tmp_path / "made")
    stored.note("**done**")
    assert stored.tag("taxon.reason") == "no disk" and stored.tag("mlflow.note.content") == "**done**"
    assert [item.path for item in client.list_artifacts(run.run_id)] == ["trials.csv"]
    stored.end()
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED" and "taxon.reason" not in found.data.tags
