"""Mistakes that no type catches: one line each, with the option, its value and what to do."""

from __future__ import annotations

import contextlib
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from core.errors import UserError
from core.stages.discovery import checks, materials
from core.stages.discovery.config import PipelineConfig, SsddbcConfig, TrainConfig
from core.training import recipes

TRAIN = recipes.resolve(TrainConfig(dataset="digits"))
PIPELINE = recipes.resolve(PipelineConfig(dataset="digits"))


def refusal(check, config, **changed) -> str:
    with pytest.raises(UserError) as caught:
        check(dataclasses.replace(config, **changed))
    line = str(caught.value)
    assert "\n" not in line and len(line) < 250
    return line


@pytest.mark.parametrize("dataset", ["digits", "cifar100", "folder"])
def test_what_the_recipes_say_is_accepted(dataset):
    train = recipes.resolve(TrainConfig(dataset=dataset))
    pipeline = recipes.resolve(PipelineConfig(dataset=dataset))
    assert checks.check_training(train) is train
    assert checks.check_pipeline(pipeline) is pipeline
    assert checks.check_grid(SsddbcConfig()) is None


POSITIVE = [
    *("batch_size", "image_size", "lr", "temperature", "sup_con_temperature"),
    *("head_hidden", "head_bottleneck", "head_out", "update_interval"),
]
COMMON = [
    *((name, 0, "must be larger than 0") for name in POSITIVE),
    ("lr", -0.1, "must be larger than 0"),
    ("sup_con_weight", 1.5, "outside 0..1"),
    ("sup_con_weight", -0.1, "outside 0..1"),
    ("momentum", 1.1, "outside 0..1"),
    ("weight_decay", -1e-4, "must be 0 or more"),
    ("pseudo_loss_weight", -1.0, "must be 0 or more"),
    ("view_cache", -1, "must be 0 or more"),
    ("num_workers", -1, "must be 0 or more"),
    ("save_ckpt_every", -1, "must be 0 or more"),
    ("grad_from_block", -1, "must be 0 or more"),
    ("seed", -1, "must be 0 or more"),
    ("n_views", 1, "at least 2 views"),
    ("eval_funcs", "v3", "'v3' is no accuracy"),
    ("eval_funcs", "v1, v2", "is no accuracy"),
    ("eval_funcs", "", "is no accuracy"),
]


@pytest.mark.parametrize(("name", "value", "says"), COMMON)
def test_common_mistakes_are_refused_by_training_and_pipeline(name, value, says):
    for check, config in ((checks.check_training, TRAIN), (checks.check_pipeline, PIPELINE)):
        line = refusal(check, config, **{name: value})
        assert line.startswith(f"{name} = ") and says in line


def test_selecting_by_truth_needs_the_truths_accuracy():
    line = refusal(checks.check_training, TRAIN, select_by="oracle", eval_funcs="v1")
    assert line.startswith("select_by = oracle needs v2")
    assert checks.check_training(dataclasses.replace(TRAIN, select_by="oracle", eval_funcs="v1,v2"))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"epochs": 0}, "epochs = 0; train for at least 1 epoch"),
        ({"epochs": 5, "stop_at_epoch": 6}, "stop_at_epoch = 6 is outside 0..epochs (5)"),
        ({"stop_at_epoch": -1}, "stop_at_epoch = -1 is outside"),
    ],
)
def test_mistakes_of_training(changed, says):
    assert refusal(checks.check_training, TRAIN, **changed).startswith(says)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"stage1_epochs": 0}, "stage1_epochs = 0; the warm-up takes at least 1 epoch"),
        ({"stage1_epochs": 5, "total_epochs": 5}, "total_epochs = 5 leaves nothing after stage1_epochs = 5"),
        ({"stage1_epochs": 9, "total_epochs": 5}, "total_epochs = 5 leaves nothing after stage1_epochs = 9"),
        ({"k_min": 0}, "k_min = 0"),
        ({"over_cluster": 0.0}, "over_cluster = 0.0"),
        ({"answers_by": "classifier"}, "answers_by = classifier, but objective = contrast trains none"),
        ({"answers_by": "classifier", "objective": "both", "over_cluster": 2.0}, "over_cluster = 2 makes more clusters"),
        ({"n_classes": 0}, "n_classes = 0"),
        ({"cluster_sample": 99}, "cluster_sample = 99"),
        ({"suggest": -1}, "suggest = -1"),
        ({"export": "coco,zip"}, "export: there is no kind 'zip'"),
        ({"export": "links"}, "export = links needs export_to"),
        ({"export_to": "x"}, "export_to = 'x', but nothing is to be exported"),
    ],
)
def test_mistakes_of_the_pipeline(changed, says):
    assert refusal(checks.check_pipeline, PIPELINE, **changed).startswith(says)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"k_min": 0}, "k_min = 0, k_max = 21"),
        ({"k_min": 9, "k_max": 8}, "k_min = 9, k_max = 8"),
        ({"density_min": -1}, "density_min = -1"),
        ({"density_min": 90, "density_max": 80}, "density_min = 90, density_max = 80"),
        ({"density_max": 101}, "density_min = 40, density_max = 101"),
        ({"density_step": 0}, "density_step = 0; use 1 or more"),
        ({"max_workers": -1}, "max_workers = -1; use 0"),
    ],
)
def test_mistakes_of_the_grid(changed, says):
    assert refusal(checks.check_grid, SsddbcConfig(), **changed).startswith(says)


def test_selecting_by_held_out_labels_needs_some():
    line = refusal(checks.check_training, TRAIN, select_by="val", val_fraction=0.0)
    assert line.startswith("select_by = val needs held-out labelled images")


@pytest.mark.parametrize(
    "known, config, said",
    [
        (1, {"select_by": "last", "val_fraction": 0.1}, "nothing to tell apart"),
        (2, {"select_by": "val", "val_fraction": 0.01}, "holds none out"),
        (2, {"select_by": "score", "val_fraction": 0.01}, "holds none out"),
        (2, {"select_by": "score", "val_fraction": 0.0}, ""),
        (2, {"select_by": "last", "val_fraction": 0.01}, ""),
    ],
)
def test_one_class_and_a_share_that_holds_nothing_out_are_refused_before_training(known, config, said):
    data = SimpleNamespace(name="few", class_names=("a", "b")[:known], given=None)
    split = SimpleNamespace(labelled=np.arange(8), validation=np.arange(0))
    with pytest.raises(UserError, match=said) if said else contextlib.nullcontext():
        materials._require_trainable(SimpleNamespace(**config), data, split)
