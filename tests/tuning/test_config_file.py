"""What a study leaves, its training takes: `--config`, a place that is no part of any result."""

from __future__ import annotations

import dataclasses
import json

import pytest

from core import config as configuration
from core.config import ConfigFile
from core.stages.clip.config import TrainClipConfig
from core.stages.discovery.config import TrainConfig
from core.stages.longtail.config import LongtailTrainConfig
from core.stages.posts.config import OptimizeClipConfig

TRAININGS = {
    "train_superclass": (TrainConfig, "lr"),
    "train_longtail": (LongtailTrainConfig, "lr"),
    "train_clip": (TrainClipConfig, "learning_rate"),
    "optimize_clip": (OptimizeClipConfig, "head_lr"),
}
each_training = pytest.mark.parametrize(("kind", "rate"), TRAININGS.values(), ids=TRAININGS)


@each_training
def test_a_training_takes_the_options_of_a_file(kind, rate, tmp_path):
    path = tmp_path / "best.json"
    path.write_text(json.dumps({rate: 0.0123, "weight_decay": 0.5}))
    taken = configuration.parse(kind, [f"--config={path}", "--weight_decay=0.25"], "training")
    assert (getattr(taken, rate), taken.weight_decay, taken.config) == (0.0123, 0.25, "")


@each_training
def test_where_the_file_lies_is_no_part_of_a_result(kind, rate):
    assert issubclass(kind, ConfigFile)
    assert "config" not in configuration.canonical(kind(), results_only=True)
    assert configuration.canonical(kind(config="best.json"), results_only=True) == configuration.canonical(kind(), results_only=True)


@each_training
def test_config_is_the_first_option_and_empty_by_default_as_mlflow_run_passes_it(kind, rate):
    assert dataclasses.fields(kind)[0].name == "config"
    assert configuration.parse(kind, ["--config="], "training") == kind()
