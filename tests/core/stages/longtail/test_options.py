"""Every option of a long-tail training does what it says, through the real stage on tiny images; none is read and ignored."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from core.data import longtail
from core.evaluation import linear_probe
from core.losses.label import LOSSES
from core.models import small
from core.stages.longtail import materials, train
from core.stages.longtail.config import LongtailEvaluateConfig, LongtailTrainConfig
from core.training.precision import has_bf16
from tests.core.stages.longtail import tiny
from tests.core.stages.longtail.tiny import EPOCH_OPTIONS
from tests.core.stages.tiny import kept_in

CENTER = {"center_update_epoch": 0, "use_center_loss": True, "use_cosine_classifier": True}
FEWSHOT = {"model_type": "fewshot", "fewshot_hidden": 16}
# base configuration -> option -> another value of it: the trained weights must differ.
CHANGES = {
    "plain": {
        "seed": 2,
        "image_size": 16,
        "dropout": 0.6,
        "batch_size": 4,
        "lr": 3e-3,
        "weight_decay": 0.3,
        "optimizer": "sgd",
        "warmup_epochs": 1,
        "accumulation_steps": 2,
        "clip_norm": 0.01,
        "use_ema": True,
        "model_type": "fewshot",
        "use_class_weights": True,
        "label_smoothing": 0.2,
        "balance_sampler": True,
        "mixup_alpha": 5.0,
        "mixup_prob": 0.0,
        "cutmix_alpha": 5.0,
        "cutmix_prob": 0.0,
        "stage3_epoch": -1,
    },
    "focal": {"focal_gamma": 3.0},
    "sampler": {"sampler_power": 1.0},
    "average": {"ema_decay": 0.05},  # below the warm-up of the average, which few steps never leave
    "momentum": {"momentum": 0.0},
    "center": {"use_center_loss": False, "center_loss_weight": 0.5, "use_cosine_classifier": False},
    "fewshot": {"fewshot_hidden": 8, "fewshot_dropout": 0.0, "fewshot_head_lr_scale": 1.0, "fewshot_freeze_backbone": False},
    "scheduled": {"scheduler": "none", "schedule_epochs": 40, "epochs": 6},
}
BASES = {
    "plain": {},
    "focal": {"loss_type": "focal"},
    "sampler": {"balance_sampler": True},
    "average": {"use_ema": True},
    "momentum": {"optimizer": "sgd"},
    "center": CENTER,
    "fewshot": FEWSHOT,
    "scheduled": {"epochs": 4, "mixup_disable_epoch": 10},
}
PAIRS = [(base, option) for base, options in CHANGES.items() for option in options]
# options that must not change what is trained
NEUTRAL = {
    "num_workers": 3,
    "save_freq": 1,
    "keep_checkpoints": "all",
    "log_interval": 1,
    "select_by": "last",
    "save_best_thresh": 0.5,
    "early_stopping_patience": 7,
    "linear_probe": True,
    "gpu": "auto",
}
# options with a test of their own: below, in test_train.py, or in tests/core/training
ELSEWHERE = {
    *(f"{part}_{kind}" for part in longtail.PARTS for kind in ("dir", "meta")),
    "data_root",
    "class_weights",
    "val_share",
    "threads",
    "use_amp",
    "backbone",
    "pretrained",
    "weights",
    "loss_type",
    "progressive_image_size",
    "resume",
    "register",
    "config",
    *EPOCH_OPTIONS,
}


def test_every_option_of_a_training_is_tested_here():
    tested = {option for _, option in PAIRS} | set(NEUTRAL) | ELSEWHERE
    assert tested == {field.name for field in dataclasses.fields(LongtailTrainConfig)}


@pytest.fixture
def quick(place, monkeypatch):
    """Return digest(**options) of the weights after two epochs (of `epochs`), without the evaluations."""
    monkeypatch.setattr(train.LongtailTraining, "evaluate", lambda self, epoch: {"val/balanced_accuracy": 0.5})
    monkeypatch.setattr(train.LongtailTraining, "stop", property(lambda self: 2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def digest(**options):
        return place.fitted(**options).digest()

    return digest


@pytest.fixture(scope="session")
def base_digests():
    """Return a dictionary that keeps the digests of the configurations that others are compared with."""
    return {}


def base_of(quick, base_digests, base: str) -> str:
    if base not in base_digests:
        base_digests[base] = quick(**BASES[base])
    return base_digests[base]


@pytest.mark.slow
@pytest.mark.parametrize(("base", "option"), PAIRS)
def test_an_option_changes_the_training(quick, base_digests, base, option):
    assert quick(**BASES[base] | {option: CHANGES[base][option]}) != base_of(quick, base_digests, base)


@pytest.mark.slow
@pytest.mark.parametrize("option", NEUTRAL)
def test_an_option_does_not_change_the_training(quick, base_digests, option):
    assert quick(**{option: NEUTRAL[option]}) == base_of(quick, base_digests, "plain")


def test_what_the_number_of_epochs_does_to_the_schedule_is_said_and_is_the_stage(place, capsys):
    given = place.training(epochs=4, stage2_epoch=1, final_clean_epoch=3)
    assert "schedule" not in capsys.readouterr().err
    scaled = place.training(epochs=4, stage2_epoch="auto", final_clean_epoch="auto")
    assert "taxon: schedule of 50 epochs scaled to 4; as given: warmup_epochs 0, stage3_epoch 0\n" in capsys.readouterr().err
    assert scaled.config == given.config and scaled.key == given.key
    assert scaled.key != place.training(epochs=4, stage2_epoch="auto").key


@pytest.mark.slow
def test_every_loss_trains_something_else(quick):
    switches = {"drw_epoch": 1, "crt_epoch": 1, "balance_sampler": False, "epochs": 3}  # left to itself it depends on the loss
    found = {loss_type: quick(loss_type=loss_type, **switches) for loss_type in LOSSES}
    assert found.pop("logit_adjustment") == found["ce"]  # it differs in what is scored, which is not evaluated here
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize(("given", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_optimizer_is_the_one_named_with_its_numbers(place, given, kind):
    optimizer = place.training(optimizer=given, lr=0.2, momentum=0.7, weight_decay=0.01).task.optimizer
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0, 0.01, 0.0]
    assert all(group["lr"] == 0.2 and group.get("momentum", 0.7) == 0.7 for group in optimizer.param_groups)


def test_the_learning_rate_of_every_epoch_is_in_its_history(place):
    history = place.fitted(epochs=3, warmup_epochs=2, scheduler="none", lr=1e-2, lr_restart_epoch=2).history
    assert [metrics["lr"] for _, metrics in history] == pytest.approx([2e-4, 5.1e-3, 4e-3])


def test_checkpoints_are_kept_as_often_as_asked_beside_best_and_last(place, monkeypatch):
    monkeypatch.setattr(train.LongtailTraining, "score", lambda self, metrics, epoch: float(epoch == 2))
    for every, keep, kept in ((0, "needed", "2 5*"), (2, "needed", "2* 4* 5*"), (3, "needed", "2 3* 5*"), (0, "all", "2* 5*")):
        _summary, run = place.publish(epochs=5, save_freq=every, keep_checkpoints=keep)
        assert kept_in(run.place) == kept


SCORES = {1: (0.1, 0.9, 0.2, 0.3), 2: (0.9, 0.2, 0.3, 0.2), 3: (0.2, 0.3, 0.8, 0.4), 4: (0.3, 0.1, 0.1, 0.6), 5: (0.0, 0.0, 0.0, 0.0)}
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "tail_accuracy")


@pytest.mark.parametrize(("select_by", "epoch"), [*zip(METRICS, (2, 1, 3, 4), strict=True), ("last", 5)])
def test_the_best_epoch_is_chosen_by_the_metric_asked_for(place, monkeypatch, select_by, epoch):
    def scripted(self, at):
        return {f"val/{name}": value for name, value in zip(METRICS, SCORES[at], strict=True)}

    monkeypatch.setattr(train.LongtailTraining, "evaluate", scripted)
    training = place.fitted(epochs=5, select_by=select_by)
    assert training.facts["best"]["epoch"] == epoch


@pytest.mark.parametrize(("threshold", "epoch"), [(-1.0, 1), (0.5, 2), (0.95, 0)])
def test_only_a_score_above_the_threshold_makes_a_best_checkpoint(place, monkeypatch, threshold, epoch):
    monkeypatch.setattr(train.LongtailTraining, "score", lambda self, metrics, at: {1: 0.3, 2: 0.9}[at])
    summary, _run = place.publish(epochs=2 if epoch != 1 else 1, save_best_thresh=threshold)
    assert summary["best"]["epoch"] == epoch
    assert summary["best_checkpoint"] == (f"checkpoints/epoch_{epoch:04d}.safetensors" if epoch else "")


@pytest.mark.parametrize(("interval", "steps"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (2, [2, 5]), (3, [3, 6])])
def test_losses_of_batches_are_logged_as_often_as_asked(place, interval, steps):
    run = place.fitted(log_interval=interval).run
    told = [(step, set(values)) for values, step in run.history if any(name.startswith("step/") for name in values)]
    assert told == [(step, {"step/L_total", "step/L_label"}) for step in steps]


def test_a_linear_probe_of_the_untrained_network_is_fitted_where_asked(place):
    summary, run = place.publish(linear_probe=True)
    assert {"probe/val/accuracy", "probe/test/accuracy"} <= summary["best_metrics"].keys()
    assert summary["best_metrics"]["probe/val/accuracy"] in [values.get("probe/val/accuracy") for values, _ in run.history]
    assert not any(name.startswith("probe/") for name in place.publish()[0]["best_metrics"])


def probed(place, monkeypatch, right: bool, **options):
    """Publish a training whose model always says the first class, and whose probe is always right or says so too."""
    outputs = materials.Materials.outputs

    def told(self, features, n_classes):
        return np.eye(4)[np.repeat(np.arange(4), tiny.COUNTS["val" if len(features) == 13 else "test"]) * right]

    def always_first(self, model, part, size):
        found = outputs(self, model, part, size)
        return found | {"label": np.eye(4, dtype=np.float32)[np.zeros(len(found["label"]), int)]}

    with monkeypatch.context() as patch:
        patch.setattr(linear_probe.LinearProbe, "probabilities", told)
        patch.setattr(materials.Materials, "outputs", always_first)
        return place.publish(linear_probe=True, **options)


@pytest.mark.parametrize(("select_by", "named"), [("balanced_accuracy", "balanced accuracy"), ("tail_accuracy", "balanced accuracy")])
def test_a_probe_that_is_surely_better_is_said_near_the_top_and_on_the_version(place, monkeypatch, capsys, select_by, named):
    tags = []
    monkeypatch.setattr("core.tracking.registry.register", lambda *given: tags.append(given[7]) or "models:/x/1")
    summary, run = probed(place, monkeypatch, True, select_by=select_by, register=True)
    gain = {name: summary["best_metrics"][f"probe/{name}"] for name in ("gain", "gain_low", "gain_high")}
    assert gain["gain"] == 0.75 and 0 < gain["gain_low"] < 0.75 <= gain["gain_high"] <= 1
    interval = f"(95 % interval {gain['gain_low']:+.3f} to {gain['gain_high']:+.3f})"
    line = f"a linear probe on the network before this training is better: validation {named} 1.000 against 0.250 of this model, +0.750"
    line += f" {interval}; train longer or with another lr"
    assert run.noted.split("\n")[2] == f"**Note: {line}.**" and f"taxon: {line}" in capsys.readouterr().out
    assert tags[0]["taxon.warning"] == run.tagged["taxon.warning"] == line


def test_a_probe_that_is_not_surely_better_is_a_figure_only(place, monkeypatch):
    summary, run = probed(place, monkeypatch, False)
    assert summary["best_metrics"]["probe/gain"] == 0 >= summary["best_metrics"]["probe/gain_low"]
    assert "linear probe" not in run.noted and "taxon.warning" not in run.tagged


def test_a_model_is_registered_unless_not_asked_for(place, monkeypatch):
    asked = []
    monkeypatch.setattr("core.stages.classifier.ClassifierTraining.register", lambda self, *_: asked.append(self.size) or "models:/x/1")
    assert place.publish(register=True)[0]["model"] == "models:/x/1" and asked == [12]
    assert "model" not in place.publish(register=False)[0] and asked == [12]


def test_training_starts_from_the_backbone_in_weights(place, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({name: value.numpy() for name, value in small.create(77).state_dict().items()}, path)
    expected = torch.cat([p.flatten() for p in small.create(77).parameters()])
    started = place.training(weights=str(path), pretrained=True).task.model.net
    assert torch.equal(torch.cat([p.flatten() for p in started.parameters()]), expected)
    fresh = place.training().task.model.net
    assert not torch.equal(torch.cat([p.flatten() for p in fresh.parameters()]), expected)


def test_pretrained_weights_are_asked_for_unless_not_wanted(place, monkeypatch):
    asked, build = [], materials.backbones.build

    def spy(name, size, block, weights="", pretrained=True, *rest):
        asked.append((name, pretrained))
        return build(name, size, block, weights, False, *rest)

    monkeypatch.setattr(materials.backbones, "build", spy)
    for pretrained in (True, False):
        place.training(pretrained=pretrained, backbone="resnet10t", image_size=32, progressive_image_size=32)
    assert asked == [("resnet10t", True), ("resnet10t", False)]


def test_a_backbone_is_the_one_named(place, monkeypatch):
    options = {"image_size": 32, "progressive_image_size": 32}
    assert type(place.training(backbone="resnet10t", **options).task.model.net.net).__name__ == "ResNet"
    assert type(place.training().task.model.net.net).__name__ == "SmallCNN"


def test_class_weights_are_those_of_the_file(place, tmp_path):
    path = tmp_path / "weights.csv"
    path.write_text("label,class,count,weight\nbar,,,0.5\ncross,,,1.5\ndot,,,2.5\nring,,,7.0\n")
    assert place.training(class_weights=str(path)).task.loss.weights.tolist() == [0.5, 1.5, 2.5, 7.0]
    counts = np.array(tiny.COUNTS["train"])
    assert place.training().task.loss.weights.tolist() == pytest.approx(28 / (4 * counts))


def test_parts_are_read_from_where_each_is_named(place, tmp_path):
    other = tiny.make_images(tmp_path / "other" / "glyphs", seed=3, counts={"val": (1, 1, 1, 1), "test": (2, 1, 1, 1)})
    mixed = place.training(val_dir=str(other / "val"), test_dir=str(other / "test")).m.data
    assert (len(mixed.train), len(mixed.val), len(mixed.test)) == (28, 4, 5)
    alone = place.training(data_root="", train_dir=str(place.images / "train"), val_dir=str(other / "val")).m.data
    assert (len(alone.train), len(alone.val), len(alone.test)) == (28, 4, 0)


def test_parts_are_read_from_metadata(place, tmp_path):
    rows = {part: sorted((place.images / part).rglob("*.png"))[:count] for part, count in (("train", 28), ("val", 5), ("test", 7))}
    for part, paths in rows.items():
        lines = [f"{path.relative_to(place.images / part)},{path.parent.name}" for path in paths]
        (tmp_path / f"{part}.csv").write_text("image_path,label\n" + "\n".join(lines) + "\n")
    places = {f"{part}_meta": str(tmp_path / f"{part}.csv") for part in rows} | {f"{part}_dir": str(place.images / part) for part in rows}
    data = place.training(data_root="", **places).m.data
    assert [len(getattr(data, part)) for part in rows] == [28, 5, 7]


def test_computations_get_the_threads_asked_for(place, monkeypatch):
    asked, before = [], torch.get_num_threads()
    monkeypatch.setattr("core.stages.machine.threadpool_limits", asked.append)
    try:
        place.training(threads=2)
        assert torch.get_num_threads() == 2 and asked == [2]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("use_amp", [True, False])
def test_forward_passes_run_in_half_precision_where_asked_and_fast(place, use_amp):
    training, seen = place.training(epochs=1, use_amp=use_amp), set()
    training.task.model.net.register_forward_hook(lambda *_: seen.add(torch.is_autocast_enabled("cpu")))
    training.fit()
    assert seen == {use_amp and has_bf16(torch.device("cpu"))}
    assert training.m.number_format == ("bf16" if seen == {True} else "fp32")


@pytest.mark.parametrize("bf16", [True, False])
def test_half_precision_trains_finite_weights(place, monkeypatch, bf16):
    monkeypatch.setattr("core.training.precision.has_bf16", lambda device: bf16)
    training = place.fitted(epochs=1, use_amp=True, use_ema=True, **CENTER)
    assert training.m.number_format == ("bf16" if bf16 else "fp32")
    assert all(torch.isfinite(value).all() for value in training.weights().values())


def test_the_later_image_size_is_the_one_asked_for(place):
    training = place.fitted(epochs=2, progressive_resize_epoch=1, progressive_image_size=20)
    assert training.task.loader.spec.image_size == 20 and training.m.current_size("val") == 20


def test_resuming_takes_over_weights_and_history(place):
    first = place.fitted(epochs=2)
    path = place.folder / "epoch_0002.safetensors"
    shutil.copy(first.work / "checkpoints" / path.name, path)
    again = place.training(epochs=3, resume=str(path))
    assert again.epoch == 2 and again.digest() == first.digest() and [epoch for epoch, _ in again.history] == [1, 2]


def test_evaluation_takes_its_places_from_the_training_where_it_has_none_of_its_own():
    own = {field.name for field in dataclasses.fields(LongtailEvaluateConfig)}
    assert own - {field.name for field in dataclasses.fields(LongtailTrainConfig)} == {"checkpoint", "part", "worst"}
