"""Every option of a training does what it says, through the real stage on tiny images; none is read and ignored."""

from __future__ import annotations

import dataclasses
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.numpy import save_file

from core.models import backbones, small
from core.stages.discovery import train
from core.stages.discovery.config import TrainConfig
from core.training import view_cache
from tests.core.stages.tiny import TRAIN, kept_in, refused

# option -> a value that differs from the tiny configuration's (and what it needs): the trained weights must differ.
CHANGES = {
    "seed": {"seed": 2},
    "novel_classes": {"novel_classes": "dot,ring"},
    "prop_train_labels": {"prop_train_labels": 0.5},
    "labels_per_class": {"labels_per_class": 4},
    "val_fraction": {"val_fraction": 0.4},
    "batch_size": {"batch_size": 8},
    "precision": {"precision": "bf16"},
    "grad_from_block": {"grad_from_block": 1},
    "image_size": {"image_size": 16},
    "head_hidden": {"head_hidden": 32},
    "head_bottleneck": {"head_bottleneck": 4},
    "head_out": {"head_out": 16},
    "optimizer": {"optimizer": "sgd"},
    "lr": {"lr": 3e-3},
    "weight_decay": {"weight_decay": 0.3},
    "temperature": {"temperature": 0.6},
    "sup_con_temperature": {"sup_con_temperature": 0.5},
    "sup_con_weight": {"sup_con_weight": 0.9},
    "contrast_unlabel_only": {"contrast_unlabel_only": True},
    "n_views": {"n_views": 3},
    "hidden_classes": {"hidden_classes": 1},
}
# the same with a classifier beside the contrast
CLASSIFIER_CHANGES = {
    "objective": {"objective": "contrast"},
    "objective ": {"objective": "classifier"},
    "classifier_weight": {"classifier_weight": 0.5},
    "entropy_weight": {"entropy_weight": 0.5},
    "teacher_temperature": {"teacher_temperature": 0.06},
    "n_classes": {"n_classes": 5},
}
# the same beside pseudo labels
PSEUDO_CHANGES = {
    "pseudo_loss": {"pseudo_loss": "prototypical"},
    "pseudo_loss ": {"pseudo_loss": "supcon"},
    "pseudo_loss_weight": {"pseudo_loss_weight": 2.0},
    "pseudo_points": {"pseudo_points": "all"},
    "pseudo_points ": {"pseudo_points": "agreed"},
    "pseudo_points  ": {"pseudo_points": "margin"},
    "pseudo_points   ": {"pseudo_points": "density", "pseudo_coverage": 0.7},
    "pseudo_for_labeled_mode": {"pseudo_for_labeled_mode": "off"},
    "pseudo_weight_mode": {"pseudo_weight_mode": "density"},
    "pseudo_weight_mode ": {"pseudo_weight_mode": "inverse_density"},
    "gamma_ramp": {"gamma_ramp": "total"},
    "update_interval": {"update_interval": 4},
    "pseudo_labels_path": {"pseudo_labels_path": ""},
}
# options that must not change what is trained
NEUTRAL = {
    "num_workers": {"num_workers": 3},
    "eval_funcs": {"eval_funcs": "v1,v2,v2b"},
    "select_by": {"select_by": "last"},
    "answers_by": {"answers_by": "kmeans"},
    "save_best_thresh": {"save_best_thresh": 0.5},
    "save_ckpt_every": {"save_ckpt_every": 1},
    "keep_checkpoints": {"keep_checkpoints": "all"},
    "save_features_and_exit": {"save_features_and_exit": True},
    "download": {"download": False},
    "n_classes": {"n_classes": 5},
}
# options with a test of their own below or elsewhere
ELSEWHERE = {
    "momentum",
    "view_cache",
    "batch_norm",
    "weights",
    "warmup_model_dir",
    "resume_from_ckpt",
    "model_name",
    "epochs",
    "stop_at_epoch",
    "threads",
    "gpu",
    "dataset",
    "data_root",
    "images",
    "bad_images",
    "follow_links",
    "superclass_name",
    "train_all_superclasses",
    "config",
    "labels",
    "pseudo_coverage",
    "pseudo_coverage_end",
}


def test_every_option_of_a_training_is_tested_here():
    tested = {name.strip() for name in (*CHANGES, *CLASSIFIER_CHANGES, *PSEUDO_CHANGES, *NEUTRAL)} | ELSEWHERE
    assert tested == {field.name for field in dataclasses.fields(TrainConfig)}


@pytest.fixture
def quick(place, monkeypatch):
    """Return digest(**options) of the weights after one epoch, without the evaluations."""
    constant = {"unlabelled/v2_all": 0.5, "selection/silhouette": 0.1}
    monkeypatch.setattr(train.Training, "evaluate", lambda self, epoch: dict(constant))

    def digest(**options):
        return place.fitted(**{"epochs": 2, "stop_at_epoch": 1} | options).digest()

    return digest


@pytest.fixture(scope="session")
def base_digests():
    """Return a dictionary that keeps the digests of the configurations that others are compared with."""
    return {}


@pytest.mark.parametrize("option", CHANGES)
def test_an_option_changes_the_training(quick, base_digests, option):
    if "base" not in base_digests:
        base_digests["base"] = quick()
    assert quick(**CHANGES[option]) != base_digests["base"]


@pytest.mark.parametrize("option", NEUTRAL)
def test_an_option_does_not_change_the_training(quick, base_digests, option):
    if "base" not in base_digests:
        base_digests["base"] = quick()
    assert quick(**NEUTRAL[option]) == base_digests["base"]


@pytest.mark.parametrize("option", CLASSIFIER_CHANGES)
def test_an_option_of_the_classifier_changes_the_training(quick, base_digests, option):
    if "both" not in base_digests:
        base_digests["both"] = quick(objective="both")
    assert quick(**{"objective": "both"} | CLASSIFIER_CHANGES[option]) != base_digests["both"]


@pytest.mark.parametrize("points", ["margin", "density"])
def test_the_coverage_of_points_by_rank_is_held_or_grows(quick, pseudo_path, points):
    given = {"epochs": 7, "stop_at_epoch": 2, "pseudo_labels_path": pseudo_path, "pseudo_points": points}
    held, more, grown = (quick(**given, pseudo_coverage=s, pseudo_coverage_end=e) for s, e in ((0.3, 0.3), (0.6, 0.6), (0.3, 1.0)))
    assert len({held, more, grown}) == 3


@pytest.mark.parametrize("option", PSEUDO_CHANGES)
def test_a_pseudo_label_option_changes_the_training(quick, base_digests, pseudo_path, option):
    given = {"epochs": 7, "pseudo_labels_path": pseudo_path}
    if "pseudo" not in base_digests:
        base_digests["pseudo"] = quick(**given)
    assert quick(**given | PSEUDO_CHANGES[option]) != base_digests["pseudo"]


def test_momentum_is_that_of_sgd(quick):
    assert quick(optimizer="sgd", momentum=0.0) != quick(optimizer="sgd", momentum=0.9)


def test_the_optimizer_is_the_one_named_with_its_numbers(place):
    sgd = train.Training(place.config(optimizer="sgd", lr=0.2, momentum=0.7, weight_decay=0.01), place.run()).optimizer
    adamw = train.Training(place.config(optimizer="adamw"), place.run()).optimizer
    assert isinstance(sgd, torch.optim.SGD) and isinstance(adamw, torch.optim.AdamW)
    (group,) = sgd.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.2, 0.7, 0.01)


def test_the_seed_changes_split_and_initialisation(place):
    one, other = (train.Training(place.config(seed=seed), place.run()) for seed in (1, 2))
    assert one.materials.split.digest != other.materials.split.digest and one.digest() != other.digest()
    assert one._loader()._draw(0)[0].tolist() != other._loader()._draw(0)[0].tolist()


@pytest.mark.parametrize(
    "options, labelled, held_out",
    [
        ({}, 32, 4),
        ({"val_fraction": 0.0}, 36, 0),
        ({"prop_train_labels": 0.4}, 16, 2),
        ({"labels_per_class": 5, "val_fraction": 0.2}, 12, 3),
    ],
)
def test_how_many_are_labelled_and_held_out(place, options, labelled, held_out):
    split = train.Training(place.config(**options), place.run()).materials.split
    assert (len(split.labelled), len(split.validation)) == (labelled, held_out)
    assert len(split.unlabelled) == 4 * TRAIN - labelled - held_out


def test_without_held_out_images_selection_goes_by_what_needs_no_label(place):
    metrics = place.fitted(val_fraction=0.0, epochs=1).history[-1][1]
    assert "val/accuracy_old" not in metrics and "selection/silhouette" in metrics


@pytest.mark.parametrize("versions", ["v1", "v2", "v2b", "v1,v2,v2b"])
def test_the_accuracies_asked_for_are_reported(place, versions):
    metrics = place.fitted(epochs=1, eval_funcs=versions).run.history[-1][0]
    for version in ("v1", "v2", "v2b"):
        for where in ("unlabelled", "test"):
            for part in ("all", "old", "new"):
                assert (f"{where}/{version}_{part}" in metrics) == (version in versions.split(","))


SCORES = {  # epoch: (held-out accuracy, silhouette, All on the unlabelled)
    0: (0.1, 0.0, 0.1),
    1: (0.9, 0.1, 0.2),
    2: (0.8, 0.4, 0.3),
    3: (0.2, 0.3, 0.9),
    4: (0.3, 0.2, 0.4),
}


def scripted(training, epoch):
    held_out, silhouette, everything = SCORES[epoch]
    return {"val/accuracy_old": held_out, "selection/silhouette": silhouette, "unlabelled/v2_all": everything}


@pytest.mark.parametrize("select_by, epoch", [("score", 2), ("val", 1), ("last", 4), ("oracle", 3)])
def test_the_best_model_is_chosen_as_documented_and_tagged(place, monkeypatch, select_by, epoch):
    monkeypatch.setattr(train.Training, "evaluate", scripted)
    summary, run = place.publish(epochs=4, select_by=select_by)
    assert summary["best"]["epoch"] == epoch and run.tagged["taxon.select_by"] == select_by
    assert summary["best_checkpoint"] == f"checkpoints/epoch_{epoch:04d}.safetensors"
    kept = sorted({epoch, 4})
    assert [name for name in run.files() if name.endswith(".safetensors")] == [f"checkpoints/epoch_{e:04d}.safetensors" for e in kept]


def test_the_best_model_may_be_the_one_that_finds_hidden_classes(place, monkeypatch):
    hidden = {0: 0.0, 1: 0.2, 2: 0.1, 3: 0.9, 4: 0.3}
    monkeypatch.setattr(train.Training, "evaluate", lambda self, epoch: scripted(self, epoch) | {"selection/hidden": hidden[epoch]})
    summary, run = place.publish(epochs=4, select_by="hidden", hidden_classes=1)
    assert (summary["best"]["epoch"], summary["best"]["score"]) == (1, pytest.approx(0.55)) and run.tagged["taxon.select_by"] == "hidden"
    assert "select_by = hidden needs hidden_classes" in refused(lambda: place.config(select_by="hidden"))


@pytest.mark.parametrize("threshold, epoch", [(0.95, 1), (1.1, 2), (9.0, 0)])
def test_only_a_score_above_the_threshold_makes_a_best_checkpoint(place, monkeypatch, threshold, epoch):
    monkeypatch.setattr(train.Training, "evaluate", scripted)
    summary, _run = place.publish(
        epochs=2 if epoch else 4, save_best_thresh=threshold, stop_at_epoch=1 if epoch == 1 else 0, select_by="score"
    )
    assert summary["best"]["epoch"] == epoch
    assert summary["best_checkpoint"] == (f"checkpoints/epoch_{epoch:04d}.safetensors" if epoch else "")
    assert summary["chosen"]["epoch"] == epoch or (not epoch and summary["chosen"]["epoch"] == summary["epoch"] == 4)


def test_a_threshold_is_not_compared_with_the_number_of_the_last_epoch(place, monkeypatch):
    monkeypatch.setattr(train.Training, "evaluate", scripted)
    summary, _run = place.publish(epochs=2, save_best_thresh=9.0, select_by="last")
    assert summary["best"]["epoch"] == summary["chosen"]["epoch"] == 2 and summary["best_checkpoint"]


EVERY = [(0, "needed", "2 5*"), (2, "needed", "2* 4* 5*"), (3, "needed", "2 3* 5*"), (0, "all", "2* 5*")]


@pytest.mark.parametrize("every, keep, kept", EVERY)
def test_every_so_many_checkpoints_are_kept_beside_best_and_last(place, monkeypatch, every, keep, kept):
    monkeypatch.setattr(train.Training, "evaluate", lambda self, epoch: scripted(self, min(epoch, 4)))
    _summary, run = place.publish(epochs=5, save_ckpt_every=every, select_by="score", keep_checkpoints=keep)
    assert kept_in(run.place) == kept


def test_stopping_early_keeps_the_schedule_of_the_whole_training(place):
    short, whole = place.fitted(epochs=4, stop_at_epoch=2), place.fitted(epochs=4)
    assert [epoch for epoch, _ in short.history] == [0, 1, 2]
    for (_, one), (_, other) in zip(short.history[1:], whole.history[1:], strict=False):
        assert one["lr"] == other["lr"] and one["L_total"] == other["L_total"]


def test_features_are_stored_where_asked(shared, place):
    folder, summary, run, _config = shared
    assert {"features/features.json", "features/features.safetensors"} <= set(run.files())
    about = json.loads((folder / "features" / "features.json").read_text())
    assert about["weights_digest"] == summary["weights_digest"] and about["l2_normalised"]
    assert not any(name.startswith("features/") for name in place.publish(epochs=1)[1].files())


def test_the_view_cache_needs_a_frozen_trunk_and_enough_views(place):
    assert "view_cache needs a frozen trunk" in refused(lambda: place.fitted(view_cache=4))
    assert "view_cache = 1" in refused(lambda: place.fitted(view_cache=1, grad_from_block=2))


def test_the_view_cache_is_used_kept_and_shared(quick, place):
    plain, cached = quick(grad_from_block=2), quick(grad_from_block=2, view_cache=3)
    (file,) = (place.folder / "cache" / "views").glob("*.safetensors")
    before = file.stat().st_mtime_ns
    assert quick(grad_from_block=2, view_cache=3, lr=2e-3) != cached != plain
    assert file.stat().st_mtime_ns == before


def test_of_two_that_want_the_view_cache_one_computes_it(place, monkeypatch):
    compute, computed = view_cache.CachedViews._compute, []

    def slowly(self, file):
        computed.append(file)
        time.sleep(0.3)
        return compute(self, file)

    monkeypatch.setattr(view_cache.CachedViews, "_compute", slowly)
    trainings = [train.Training(place.config(grad_from_block=2, view_cache=3, lr=lr), place.run()) for lr in (1e-3, 2e-3)]
    with ThreadPoolExecutor() as pool:
        one, other = pool.map(lambda training: training._loader(), trainings)
    assert len(computed) == 1 and torch.equal(one.outputs, other.outputs)


def test_the_view_cache_auto_is_a_number_that_is_recorded(quick, place, monkeypatch):
    training = train.Training(place.config(grad_from_block=2, view_cache="auto"), place.run())
    kept = view_cache.compact(training.model.trunk(torch.zeros(1, 3, 12, 12))).nbytes
    assert training.view_cache == training.facts["view_cache"] == 10
    monkeypatch.setattr(view_cache, "AUTO_LIMIT", 5 * 4 * TRAIN * kept)
    assert quick(grad_from_block=2, view_cache="auto") == quick(grad_from_block=2, view_cache=5)
    _summary, run = place.publish(epochs=1, grad_from_block=2, view_cache="auto")
    assert run.tagged["taxon.view_cache"] == "5"
    assert quick(view_cache="auto") == quick(view_cache=0)  # nothing is frozen


@pytest.mark.parametrize("block, trained", [(0, {0, 1, 2}), (1, {1, 2}), (2, {2})])
def test_the_blocks_from_grad_from_block_on_are_trained(place, block, trained):
    training = train.Training(place.config(grad_from_block=block, epochs=1), place.run())
    assert bool(training.model.trunk_digest) == (block > 0)
    wanted = sum(p.numel() for index in trained for p in small.create(1).blocks[index].parameters())
    assert sum(p.numel() for p in training.model.tail.parameters() if p.requires_grad) == wanted
    given = [p for group in training.optimizer.param_groups for p in group["params"]]
    assert len(given) == len([p for p in training.model.parameters() if p.requires_grad])


def weightless(monkeypatch) -> None:
    """Let timm models start from random weights: there is no network here."""
    build = backbones.build
    monkeypatch.setattr(backbones, "build", lambda *args, **options: build(*args, **options | {"pretrained": False}))


@pytest.mark.parametrize("batch_norm, moves", [("train", True), ("frozen", False)])
def test_batch_statistics_are_renewed_or_kept(place, monkeypatch, batch_norm, moves):
    weightless(monkeypatch)
    monkeypatch.setattr(train.Training, "evaluate", scripted)
    options = {"model_name": "resnet10t", "image_size": 32, "grad_from_block": 3, "batch_norm": batch_norm, "epochs": 1}
    training = train.Training(place.config(**options), place.run())
    before = {name: value.clone() for name, value in training.model.state_dict().items() if "running_mean" in name}
    trunk = training.model.trunk_digest
    training.fit()
    moved = [not torch.equal(training.model.state_dict()[name], value) for name, value in before.items()]
    assert moved and (all(moved) if moves else not any(moved)) and training.model.trunk_digest == trunk


def test_training_starts_from_the_weights_of_warmup_model_dir(place, shared):
    folder, summary, _run, _config = shared
    training = train.Training(place.config(warmup_model_dir=str(folder)), place.run())
    assert training.digest() == summary["weights_digest"] and training.epoch == 0


def test_training_starts_from_the_backbone_in_weights(place, tmp_path):
    save_file({name: value.numpy() for name, value in small.create(77).state_dict().items()}, tmp_path / "w.safetensors")
    training = train.Training(place.config(weights=str(tmp_path / "w.safetensors")), place.run())
    found = torch.cat([p.flatten() for p in training.model.tail.parameters()])
    assert torch.equal(found, torch.cat([p.flatten() for p in small.create(77).parameters()]))


@pytest.mark.parametrize("precision, entered", [("bf16", True), ("fp32", False)])
def test_forward_passes_run_in_the_number_format(place, monkeypatch, precision, entered):
    seen = set()
    training = train.Training(place.config(precision=precision, epochs=1), place.run())
    training.model.head.register_forward_hook(lambda *_: seen.add(torch.is_autocast_enabled("cpu")))
    training.model.tail.register_forward_hook(lambda *_: seen.add(torch.is_autocast_enabled("cpu")))
    training.fit()
    assert seen == {entered}


def test_computations_get_the_threads_asked_for(place, monkeypatch):
    asked, before = [], torch.get_num_threads()
    monkeypatch.setattr("core.stages.machine.threadpool_limits", asked.append)
    try:
        train.Training(place.config(threads=2), place.run())
        assert torch.get_num_threads() == 2 and asked == [2]
    finally:
        torch.set_num_threads(before)


def test_an_image_size_reaches_model_views_and_facts(place):
    training = train.Training(place.config(image_size=16), place.run())
    assert training.materials.spec.image_size == 16 == training.facts["image_size"]
    assert next(iter(training._loader().epoch(0))).views.shape[1:] == (3, 16, 16)


def test_a_step_sees_as_many_views_as_asked(place):
    loader = train.Training(place.config(n_views=3, batch_size=8), place.run())._loader()
    assert next(iter(loader.epoch(0))).views.shape[0] == 24


def test_head_sizes_are_those_asked_for(place):
    head = train.Training(place.config(head_hidden=20, head_bottleneck=6, head_out=10), place.run()).model.head
    shapes = {tuple(p.shape) for p in head.parameters()}
    assert (20, 128) in shapes and (6, 20) in shapes and (10, 6) in shapes


def test_a_run_is_told_what_was_resolved_and_each_epoch(place):
    run = place.run()
    given = dataclasses.replace(place.config(epochs=2), temperature="auto")
    train.run(given, run)
    assert run.given["temperature"] == 0.1 and run.has_started
    assert [step for _, step in run.history] == [0, 1, 2] == [step for _, step in run.forwarded]
    assert run.datasets[0][0] == "folder/glyphs"
