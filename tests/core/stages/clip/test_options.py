"""Every option of a SuperCLIP training does what it says, through the real stage on tiny images; none is read and ignored."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from core.data.views import ViewSpec
from core.stages.clip import materials, train
from core.stages.clip.config import TrainClipConfig
from tests.core.models import tiny_clip as tiny_towers
from tests.core.stages.clip import tiny_clip
from tests.core.stages.tiny import kept_in, refused

SUPER = {"use_superclip_loss": True}
# option -> values that differ from the tiny configuration's (and what they need): the trained weights must differ.
CHANGES = {
    "val_fraction": {"val_fraction": 0.4},
    "test_fraction": {"test_fraction": 0.4},
    "use_cv": {"use_cv": True, "fold": 1},
    "random_state": {"random_state": 7},
    "image_encoder_name": {"image_encoder_name": "resnet10t"},
    "text_encoder_name": {"text_encoder_name": "clip:small-32x2"},
    "embed_dim": {"embed_dim": 8},
    "context_length": {"context_length": 4},
    "lock_image": {"lock_image": True},
    "lock_text": {"lock_text": True},
    "grad_from_block": {"grad_from_block": 2},
    "img_size": {"img_size": 12},
    "temperature": {"temperature": 0.2},
    "learnable_temperature": {"learnable_temperature": False},
    "use_superclip_loss": SUPER,
    "contrastive_targets": {"contrastive_targets": "instance"},
    "use_weighted_sampling": {"use_weighted_sampling": True},
    "word_supervision": {"word_supervision": True},
    "batch_size": {"batch_size": 6},
    "learning_rate": {"learning_rate": 2e-3},
    "weight_decay": {"weight_decay": 0.5},
    "augmentation": {"augmentation": "none"},
    "augmentation ": {"augmentation": "light"},
    "augmentation  ": {"augmentation": "strong"},
    "seed": {"seed": 2},
}
# the same beside other options: what both share, and what changes
BESIDE = {
    "class_loss_weight": (SUPER, {"class_loss_weight": 2.0}),
    "contrastive_loss_weight": (SUPER, {"contrastive_loss_weight": 0.0}),
    "use_class_weights": (SUPER, {"use_class_weights": False}),
    "weight_method": (SUPER, {"weight_method": "sqrt_inverse"}),
    "weight_method ": (SUPER, {"weight_method": "effective_num"}),
    "weight_smooth_factor": (SUPER, {"weight_smooth_factor": 0.0}),
    "word_supervision_weight": ({"word_supervision": True}, {"word_supervision_weight": 3.0}),
    "n_splits": ({"use_cv": True, "fold": 1}, {"n_splits": 3}),
    "fold": ({"use_cv": True, "fold": 1}, {"fold": 2}),
    "view_cache": ({"grad_from_block": 2}, {"view_cache": 2}),
    "view_cache ": ({"lock_image": True}, {"view_cache": 2}),
    "group_pattern": ({"val_fraction": 0.3, "test_fraction": 0.3}, {"group_pattern": r"/(\d+)_"}),
    "scheduler": ({"epochs": 2}, {"scheduler": "none"}),
    "epochs": ({"epochs": 1}, {"epochs": 2}),
}
# options that must not change what is trained
NEUTRAL = {
    "num_workers": {"num_workers": 3},
    "select_by": {"select_by": "last"},
    "save_best": {"save_best": False},
    "save_best_thresh": {"save_best_thresh": 0.5},
    "save_freq": {"save_freq": 1},
    "keep_checkpoints": {"keep_checkpoints": "all"},
    "log_interval": {"log_interval": 1},
    "zero_shot": {"zero_shot": True},
    "linear_probe": {"linear_probe": True},
    "few_shot": {"few_shot": True},
}
# options with a test of their own below or elsewhere
ELSEWHERE = {
    "data_dir",
    "class_texts_file",
    "groups_file",
    "group_column",
    "image_pretrained",
    "text_pretrained",
    "image_weights",
    "text_weights",
    "gpu",
    "threads",
    "use_amp",
    "early_stopping_patience",
    "early_stopping_min_delta",
    "early_stopping_monitor",
    "wise_ft",
    "resume",
    "register",
    "config",
    "multi_config",
}


def test_every_option_of_a_training_is_tested():
    tested = {name.strip() for name in (*CHANGES, *BESIDE, *NEUTRAL)} | ELSEWHERE
    assert tested == {field.name for field in dataclasses.fields(TrainClipConfig)}


CONSTANT = {"val/balanced_accuracy": 0.5, "val/accuracy": 0.5, "val/nll": 1.0, "val/mAP": 0.5}


@pytest.fixture
def quick(clip_place, monkeypatch):
    """Return digest(**options) of the weights after one epoch, without the evaluations."""
    monkeypatch.setattr(train.ClipTraining, "evaluate", lambda self, epoch: dict(CONSTANT))
    return lambda **options: clip_place.fitted(**{"epochs": 1} | options).digest()


@pytest.fixture(scope="session")
def base_digests():
    """Return a dictionary that keeps the digests of the configurations that others are compared with."""
    return {}


def base(quick, digests, shared=None) -> str:
    name = json.dumps(shared or {}, sort_keys=True)
    if name not in digests:
        digests[name] = quick(**shared or {})
    return digests[name]


@pytest.mark.parametrize("option", CHANGES)
def test_an_option_changes_the_training(quick, base_digests, option):
    assert quick(**CHANGES[option]) != base(quick, base_digests)


@pytest.mark.parametrize("option", BESIDE)
def test_an_option_changes_the_training_beside_others(quick, base_digests, option):
    shared, changed = BESIDE[option]
    assert quick(**shared | changed) != base(quick, base_digests, shared)


@pytest.mark.parametrize("option", NEUTRAL)
def test_an_option_does_not_change_the_training(quick, base_digests, option):
    assert quick(**NEUTRAL[option]) == base(quick, base_digests)


def test_with_one_sentence_a_class_both_contrasts_are_one(quick, clip_place):
    one = {name: text if isinstance(text, str) else text[0] for name, text in tiny_clip.SENTENCES.items()}
    texts = str(tiny_clip.write_sentences(clip_place.folder / "one.json", one))
    losses = [
        clip_place.fitted(epochs=1, class_texts_file=texts, contrastive_targets=t).history[0][1] for t in ("instance", "multi_positive")
    ]
    assert losses[0]["L_total"] == pytest.approx(losses[1]["L_total"], rel=1e-4)


def test_a_frozen_tower_does_not_train_and_what_it_gives_is_kept_once(clip_place):
    first = clip_place.fitted(epochs=1, lock_image=True, lock_text=True)
    files = {path: path.stat().st_mtime_ns for path in (clip_place.folder / "cache" / "embeddings").glob("*.safetensors")}
    assert len(files) == 2 and set(first.before) == {"towers.logit_scale", "towers.visual.projection.weight"}
    second = clip_place.fitted(epochs=1, lock_image=True, lock_text=True, learning_rate=1e-2)
    assert {path: path.stat().st_mtime_ns for path in files} == files and second.digest() != first.digest()
    assert len(list((clip_place.folder / "cache" / "embeddings").glob("*.safetensors"))) == 2


@pytest.mark.parametrize("options", [{"lock_image": True}, {"grad_from_block": 2}, {"grad_from_block": 2, "view_cache": 2}])
def test_kept_outputs_give_the_same_answers_as_the_tower(clip_place, options):
    training = clip_place.fitted(epochs=1, **options)
    m, model = training.m, training.task.model.eval()
    views = next(m.views(m.rows["val"], materials.evaluation_parameters(m.spec, len(m.rows["val"]))))
    with torch.no_grad():
        plain = model.logits(model.towers.encode_image(views), model.class_embeddings())
    assert np.allclose(m.logits(model, "val"), plain.numpy(), atol=1e-3)


@pytest.mark.parametrize("name", materials.AUGMENTATIONS)
def test_augmentations_are_what_they_are_called(name):
    spec = ViewSpec(image_size=16, **materials.AUGMENTATIONS[name])
    colour, moved = spec.jitter_prob > 0, spec.crop == "random" or spec.warps
    assert (colour, moved) == {"none": (False, False), "light": (False, True)}.get(name, (True, True))


@pytest.mark.parametrize("side, option", [("image", "image_weights"), ("text", "text_weights")])
def test_a_tower_starts_from_its_weights(clip_place, side, option):
    sizes = {"image_encoder_name": "clip:small-64x2", "text_encoder_name": "clip:small-32x2", "img_size": 32, "context_length": 16}
    other = tiny_towers.towers(seed=9)
    path = clip_place.folder / "clip.safetensors"
    prefix = {"image": "visual", "text": "text"}[side]
    save_file({f"{prefix}.{k}": v.contiguous() for k, v in getattr(other, prefix).body.state_dict().items()}, path)
    towers = clip_place.training(**sizes, **{option: str(path)}).task.model.towers
    given = getattr(towers, prefix).body.state_dict()
    assert all(torch.equal(given[name], value) for name, value in getattr(other, prefix).body.state_dict().items())


@pytest.mark.parametrize(
    "options, said",
    [
        ({"image_pretrained": "opnai", "image_encoder_name": "clip:ViT-B/32"}, "image_pretrained=opnai"),
        ({"text_pretrained": "opnai", "text_encoder_name": "clip:ViT-B/32"}, "text_pretrained=opnai"),
        ({"image_encoder_name": "resnet81"}, "image_encoder_name=resnet81"),
        ({"gpu": "77"}, "gpu = '77'"),
        ({"resume": "/nowhere"}, "resume = '/nowhere'"),
        ({"image_encoder_name": "clip:small-64x1", "img_size": 32, "lock_image": True, "lock_text": True}, "nothing to train"),
        ({"val_fraction": 0.0}, "select_by = balanced_accuracy needs validation"),
        ({"val_fraction": 0.0, "select_by": "last", "early_stopping_patience": 3}, "early_stopping_patience = 3 needs validation"),
    ],
)
def test_what_cannot_be_trained_is_refused(clip_place, options, said):
    assert said in refused(lambda: clip_place.training(**options))


def test_without_validation_the_last_epoch_is_taken(clip_place):
    summary, _run = clip_place.publish(val_fraction=0.0, select_by="last", wise_ft=True)
    assert summary["best"]["epoch"] == 2 and not any(name.startswith(("best/val", "wise_ft")) for name in summary["best_metrics"])


SCORES = {1: (0.9, 0.2, 0.1, 0.4), 2: (0.1, 0.8, 0.2, 0.3), 3: (0.3, 0.3, 0.9, 0.2), 4: (0.2, 0.1, 0.3, 0.9), 5: (0.0, 0.0, 0.0, 0.0)}
NAMES = ("balanced_accuracy", "accuracy", "macro_f1", "mAP")


def scripted(training, epoch):
    return {f"val/{name}": value for name, value in zip(NAMES, SCORES[epoch], strict=True)} | {"val/nll": 1.0}


@pytest.mark.parametrize(
    "options, epoch",
    [*(({"select_by": n}, e) for e, n in enumerate(NAMES, start=1)), ({"select_by": "last"}, 5), ({"save_best": False}, 5)],
)
def test_the_best_model_is_chosen_as_declared(clip_place, monkeypatch, options, epoch):
    monkeypatch.setattr(train.ClipTraining, "evaluate", scripted)
    summary, run = clip_place.publish(epochs=5, **options)
    assert summary["best"]["epoch"] == epoch and run.tagged["taxon.select_by"] == options.get("select_by", "balanced_accuracy")
    assert [name for name in run.files() if name.endswith(".safetensors")] == [
        f"checkpoints/epoch_{e:04d}.safetensors" for e in sorted({epoch, 5})
    ]


KEPT = [({"save_freq": 2}, "1 2* 4* 5*"), ({"keep_checkpoints": "all"}, "1* 5*"), ({"save_best_thresh": 0.95}, "5*")]


@pytest.mark.parametrize("options, kept", KEPT)
def test_which_checkpoints_are_kept(clip_place, monkeypatch, options, kept):
    monkeypatch.setattr(train.ClipTraining, "evaluate", scripted)
    _summary, run = clip_place.publish(epochs=5, **options)
    assert kept_in(run.place) == kept


@pytest.mark.parametrize("monitor, last", [("val_loss", 3), ("val_acc", 4), ("val_map", 6)])
def test_early_stopping_watches_what_it_is_told(clip_place, monkeypatch, monitor, last):
    def found(self, epoch):
        return CONSTANT | {"val/nll": 1.0, "val/accuracy": min(epoch, 2) / 10, "val/mAP": epoch / 10}

    monkeypatch.setattr(train.ClipTraining, "evaluate", found)
    options = {"epochs": 6, "early_stopping_patience": 2, "early_stopping_monitor": monitor}
    assert clip_place.fitted(**options).history[-1][0] == last
    assert clip_place.fitted(epochs=6, early_stopping_patience=0).history[-1][0] == 6


def test_a_smaller_change_than_min_delta_is_no_improvement(clip_place, monkeypatch):
    monkeypatch.setattr(train.ClipTraining, "evaluate", lambda self, epoch: CONSTANT | {"val/nll": 1.0 - epoch / 100})
    options = {"epochs": 6, "early_stopping_patience": 2}
    ends = [clip_place.fitted(**options, early_stopping_min_delta=delta).history[-1][0] for delta in (0.5, 0.001)]
    assert ends == [3, 6]


def test_steps_are_logged_as_often_as_asked(clip_place):
    counts = []
    for interval in (0, 1, 2):
        # Another seed is another stage: the same one would find itself finished.
        training = clip_place.fitted(epochs=1, log_interval=interval, seed=interval)
        counts.append(sum(any(name.startswith("step/") for name in values) for values, _ in training.run.history))
    assert counts == [0, training.task.steps, training.task.steps // 2] and training.task.steps > 2


@pytest.mark.parametrize("use_amp, entered", [(True, True), (False, False)])
def test_forward_passes_run_in_the_number_format(clip_place, monkeypatch, use_amp, entered):
    monkeypatch.setattr("core.training.precision.has_bf16", lambda device: True)
    seen = set()
    training = clip_place.training(use_amp=use_amp, epochs=1)
    training.task.model.register_forward_hook(lambda *_: seen.add(torch.is_autocast_enabled("cpu")))
    training.fit()
    assert seen == {entered}


def test_computations_get_the_threads_asked_for(clip_place, monkeypatch):
    asked, before = [], torch.get_num_threads()
    monkeypatch.setattr("core.stages.machine.threadpool_limits", asked.append)
    try:
        clip_place.training(threads=2)
        assert torch.get_num_threads() == 2 and asked == [2]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "options, registered", [({"register": True}, True), ({}, False), ({"register": True, "use_cv": True, "fold": 1}, False)]
)
def test_a_model_is_registered_where_asked_but_never_that_of_a_fold(clip_place, monkeypatch, options, registered):
    calls = []
    monkeypatch.setattr("core.stages.classifier.ClassifierTraining.register", lambda *a: calls.append(a) or "models:/x/1")
    summary, _run = clip_place.publish(epochs=1, **options)
    assert bool(calls) == registered == ("model" in summary)


@pytest.mark.parametrize("asked", [True, False])
def test_the_lines_beside_a_result_are_there_where_asked(clip_place, asked):
    metrics = clip_place.publish(epochs=1, zero_shot=asked, linear_probe=asked, few_shot=asked, wise_ft=asked)[0]["best_metrics"]
    for line in ("zero_shot", "linear_probe", "few_shot_1", "few_shot_16", "unseen", "wise_ft"):
        assert any(name.startswith(f"{line}/test/") for name in metrics) == asked


def test_groups_of_a_table_stay_together(clip_place):
    ids = clip_place.training().m.pool.images.ids
    path = clip_place.folder / "groups.csv"
    path.write_text("image_path,leaf\n" + "".join(f"{name},{name[-8:-6]}\n" for name in ids))
    m = clip_place.training(groups_file=str(path), group_column="leaf", val_fraction=0.3, test_fraction=0.3).m
    leaves = {part: {m.pool.images.ids[i][-8:-6] for i in rows} for part, rows in m.rows.items()}
    assert all(leaves.values()) and not leaves["train"] & leaves["val"] and not leaves["train"] & leaves["test"]
