"""Recipes fill every `auto`; the published one is GCD's; segments tile the epochs after the warm-up."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.stages.discovery.config import CacheConfig, PipelineConfig, SplitConfig, TrainConfig
from core.stages.discovery.pipeline import Segment, segments
from core.training import recipes

LEFT_TO_THE_MACHINE = {"gpu", "precision"}
LEFT_TO_SELECTION = {"answers_by"}
LEFT_TO_THE_DATA = {"bad_images", "n_classes"}  # skip on a heap, refuse elsewhere; declared by a benchmark, estimated on a heap


@pytest.mark.parametrize("kind", [TrainConfig, PipelineConfig, SplitConfig])
@pytest.mark.parametrize("dataset", ["auto", "digits", "cifar100", "folder"])
@pytest.mark.parametrize("model", ["auto", "small_cnn", "mobilenetv2_100", "resnet18", "vit_small_patch16_224.dino"])
def test_every_auto_is_filled(kind, dataset, model):
    options = {"dataset": dataset} | ({} if kind is SplitConfig else {"model_name": model})
    resolved = recipes.resolve(kind(**options))
    left = {field.name for field in dataclasses.fields(kind) if getattr(resolved, field.name) == "auto"}
    assert left <= LEFT_TO_THE_MACHINE | LEFT_TO_THE_DATA | LEFT_TO_SELECTION
    assert kind is SplitConfig or model in ("auto", resolved.model_name)


def test_every_field_of_a_recipe_is_an_option_and_fits_it():
    options = {field.name for kind in (TrainConfig, PipelineConfig) for field in dataclasses.fields(kind)}
    assert {field.name for field in dataclasses.fields(recipes.Recipe)} - options <= {"cell_choice"}
    assert "cell_choice" in {field.name for field in dataclasses.fields(PipelineConfig)}


@pytest.mark.parametrize(
    "options, dataset", [({}, "digits"), ({"superclass_name": "trees"}, "cifar100"), ({"dataset": "folder"}, "folder")]
)
def test_a_superclass_alone_implies_cifar100_and_nothing_the_digits(options, dataset):
    assert recipes.resolve(TrainConfig(**options)).dataset == dataset


def test_cifar100_alone_means_all_of_it():
    assert recipes.resolve(TrainConfig(dataset="cifar100")).superclass_name == "all"
    assert recipes.resolve(TrainConfig(superclass_name="trees")).superclass_name == "trees"
    assert recipes.resolve(TrainConfig()).superclass_name == ""


def test_what_is_given_is_never_replaced():
    given_values = {"lr": 0.5, "epochs": 7, "optimizer": "adamw", "pseudo_points": "all", "batch_norm": "frozen", "threads": 3}
    resolved = recipes.resolve(TrainConfig(superclass_name="trees", **given_values))
    assert {name: getattr(resolved, name) for name in given_values} == given_values
    assert recipes.resolve(resolved) == resolved


def test_what_was_chosen_for_mobilenet_v2_is_no_other_network_s():
    names = ("objective", "optimizer", "lr", "sup_con_weight", "pseudo_points", "grad_from_block")
    found = {}
    for model in ("mobilenetv2_100", "resnet18"):
        resolved = recipes.resolve(TrainConfig(superclass_name="trees", model_name=model))
        found[model] = tuple(getattr(resolved, name) for name in names)
    assert found == {
        "mobilenetv2_100": ("both", "sgd", 0.03, 0.25, "margin", 5),
        "resnet18": ("contrast", "adamw", 5e-4, 0.5, "core", 0),
    }


@pytest.mark.parametrize(
    ("options", "lr"),
    [({}, 1e-3), ({"optimizer": "adamw"}, 1e-3), ({"optimizer": "sgd"}, 0.03), ({"optimizer": "sgd", "lr": 0.2}, 0.2)],
)
def test_a_learning_rate_is_its_optimiser_s(options, lr):
    assert recipes.resolve(TrainConfig(dataset="digits", **options)).lr == lr


@pytest.mark.parametrize(
    ("given", "shares"),
    [({}, (0.3, 0.6)), ({"pseudo_coverage": 0.8}, (0.8, 0.8)), ({"pseudo_coverage": 0.8, "pseudo_coverage_end": 0.5}, (0.8, 0.5))],
)
def test_a_coverage_that_is_asked_for_does_not_shrink_unasked(given, shares):
    resolved = recipes.resolve(TrainConfig(dataset="digits", **given))
    assert (resolved.pseudo_coverage, resolved.pseudo_coverage_end) == shares


def test_the_published_recipe_is_that_of_gcd():
    resolved = recipes.resolve(PipelineConfig(superclass_name="trees"))
    assert resolved.model_name == "vit_base_patch16_224.dino"
    published = {
        "image_size": 224,
        "grad_from_block": 11,
        "head_hidden": 2048,
        "head_bottleneck": 256,
        "head_out": 65536,
        "optimizer": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch_size": 128,
        "temperature": 1.0,
        "sup_con_temperature": 0.07,
        "sup_con_weight": 0.5,
        "n_views": 2,
        "prop_train_labels": 0.8,
        "stage1_epochs": 50,
        "update_interval": 5,
        "total_epochs": 200,
    }
    assert {name: getattr(resolved, name) for name in published} == published
    assert recipes.resolve(TrainConfig(superclass_name="trees")).epochs == 200


def test_a_vit_keeps_the_published_recipe_under_its_own_name():
    recipe = recipes.recipe_for("cifar100", "vit_small_patch16_224.dino")
    assert dataclasses.replace(recipe, model_name="") == dataclasses.replace(
        recipes.recipe_for("folder", "deit_tiny_patch16_224"), model_name=""
    )
    assert recipe == dataclasses.replace(recipes.PUBLISHED, model_name="vit_small_patch16_224.dino")


def test_digits_are_neither_mirrored_nor_coloured():
    views = recipes.views_for("digits")
    assert views.flip_prob == 0 == views.hue == views.saturation and views.rotate > 0
    assert recipes.views_for("cifar100").flip_prob == 0.5


def test_the_segments_of_two_known_pipelines():
    assert [(s.start, s.stop) for s in segments(5, 3, 15)] == [(5, 8), (8, 11), (11, 14), (14, 15)]
    assert list(segments(50, 5, 60)) == [Segment(50, 55, 60), Segment(55, 60, 60)]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 80))
def test_segments_tile_the_epochs_after_the_warm_up(stage1, interval, more):
    found = list(segments(stage1, interval, stage1 + more))
    assert [epoch for s in found for epoch in range(s.start, s.stop)] == list(range(stage1, stage1 + more))
    assert all(s.stop - s.start == interval for s in found[:-1]) and 1 <= found[-1].stop - found[-1].start <= interval


def test_a_data_root_without_a_data_set_means_what_lies_there_and_never_the_digits(tmp_path):
    (tmp_path / "pets" / "train" / "dog").mkdir(parents=True)
    assert recipes.resolve(SplitConfig(dataset="auto", data_root=str(tmp_path / "pets"))).dataset == "folder"
    assert recipes.resolve(SplitConfig(dataset="auto")).dataset == "digits"
    for where in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="expected <data_root>/train/<class>"):
            recipes.resolve(SplitConfig(dataset="auto", data_root=str(where)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"superclass_name": "trees", "images": "a.csv"}, "superclass_name = 'trees' is of CIFAR-100, and images = 'a.csv' names other"),
        (
            {"superclass_name": "trees", "data_root": "heap"},
            "and data_root = 'heap' names other images",
        ),
        ({"superclass_name": "trees", "data_root": "split"}, "and data_root = 'split' names other images: leave one"),
        ({"superclass_name": "trees", "dataset": "digits"}, "and dataset = digits names other images"),
        ({"superclass_name": "trees", "novel_classes": "oak"}, "novel_classes = 'oak', but a superclass of CIFAR-100 has novel classes"),
        ({"dataset": "digits", "bad_images": "skip"}, "bad_images = skip acts on image files of your own only, which dataset = digits"),
        ({"dataset": "digits", "follow_links": True}, "follow_links = true acts on image files of your own only, which dataset"),
        ({"data_root": "split", "bad_images": "skip", "follow_links": True}, ""),
        ({"data_root": "heap", "bad_images": "skip", "follow_links": True}, ""),
        ({"images": "a.csv", "bad_images": "skip", "follow_links": True}, ""),
        ({"superclass_name": "trees", "data_root": "elsewhere"}, ""),
        ({"superclass_name": "trees", "dataset": "cifar100", "data_root": "heap"}, ""),
        ({"data_root": "split", "bad_images": "refuse"}, ""),
    ],
)
@pytest.mark.parametrize("kind", [TrainConfig, PipelineConfig, CacheConfig])
def test_options_of_two_data_sets_are_refused_and_never_ignored(tmp_path, monkeypatch, kind, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "heap" / "unlabelled").mkdir(parents=True)
    (tmp_path / "split" / "train").mkdir(parents=True)
    if not said:
        assert recipes.resolve(kind(**options)).dataset != "auto"
        return
    with pytest.raises(UserError) as error:
        recipes.resolve(kind(**options))
    assert said in str(error.value) and "\n" not in str(error.value)
