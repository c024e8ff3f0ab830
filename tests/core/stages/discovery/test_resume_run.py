"""Continuing a pipeline run: its own options, given ones where they may differ, and more epochs."""

from __future__ import annotations

from typing import Any

import pytest

from core import config as configuration
from core.stages.discovery import pipeline
from core.stages.discovery.config import PipelineConfig
from core.stages.discovery.pipeline import Segment, as_started, planned
from core.tracking import run as tracking
from core.training import recipes
from tests.core.stages.tiny import refused

STARTED = {
    **{"superclass_name": "trees", "model_name": "small_cnn", "lr": 0.003, "stage1_epochs": 5, "update_interval": 3, "total_epochs": 15},
    **{"compare_without": False, "select_by": "val", "data_root": "/old/place", "threads": 3, "split_novel": False},
}


@pytest.fixture
def started(client) -> str:
    """Return the id of a pipeline run that logged its options as pipelines do."""
    config = recipes.resolve(PipelineConfig(**STARTED))
    with tracking.open_run("pseudo_pipeline", "started") as run:
        run.params(configuration.canonical(config))
        return run.run_id


def resumed(run_id: str, **options: Any) -> tuple[PipelineConfig, tuple[int, ...]]:
    return as_started(PipelineConfig(resume_run_id=run_id, **options))


@pytest.mark.parametrize("given", [{}, {"superclass_name": "trees"}])
def test_the_superclass_alone_takes_every_option_from_the_run(started, given):
    config, totals = resumed(started, **given)
    assert config == recipes.resolve(PipelineConfig(**STARTED, resume_run_id=started)) and totals == (15,)


def test_more_epochs_and_what_changes_no_result_go_before_the_run_s_own(started):
    config, totals = resumed(started, total_epochs=200, data_root="/new/place", gpu="cpu", threads=1, eval_funcs="v1,v2")
    assert totals == (15, 200) and config.total_epochs == 200 and config.lr == 0.003 and config.select_by == "val"
    assert (config.data_root, config.gpu, config.threads, config.eval_funcs) == ("/new/place", "cpu", 1, "v1,v2")


def test_a_run_that_was_raised_before_remembers_it(client, started):
    client.set_tag(started, pipeline.TOTALS_TAG, "15,60")
    assert resumed(started)[1] == (15, 60) and resumed(started)[0].total_epochs == 60
    assert resumed(started, total_epochs=70)[1] == (15, 60, 70)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lr": 0.5}, "was started with lr = 0.003, not 0.5; continue it with its own parameters"),
        ({"superclass_name": "fish"}, "was started with superclass_name = trees, not fish"),
        ({"total_epochs": 10}, "has 15; raise it to train on, or leave it out"),
    ],
)
def test_what_would_mix_two_pipelines_is_refused(started, given, said):
    assert said in refused(lambda: resumed(started, **given))


def test_segments_of_before_stay_as_they_were():
    assert list(planned(5, 3, (15,))) == [Segment(5, 8, 15), Segment(8, 11, 15), Segment(11, 14, 15), Segment(14, 15, 15)]
    assert list(planned(5, 3, (15, 20))) == [*planned(5, 3, (15,)), Segment(15, 18, 20), Segment(18, 20, 20)]


@pytest.mark.parametrize(("over_cluster", "answers_by"), [(1.0, "auto"), (2.0, "kmeans")])
def test_an_answer_of_more_clusters_is_k_means_and_so_is_the_choice_of_its_epoch(over_cluster, answers_by):
    made = object.__new__(pipeline.Pipeline)
    made.config = recipes.resolve(PipelineConfig(dataset="digits", objective="both", over_cluster=over_cluster))
    assert made._train_config(Segment(2, 4, 4), "", "").answers_by == answers_by
