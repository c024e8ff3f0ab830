"""Exact resume at every epoch boundary, and that what is scored is what is saved, evaluated and served; on the real stage."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from core import digest
from core.lineage import flat, items_of, read
from core.serving.classifier import ClassifierPredictor
from core.stages import classification_report, held_out
from core.stages.longtail import rebuild, train
from core.stages.longtail.config import LongtailEvaluateConfig
from core.training import state as states
from core.training import timeline
from tests.core.stages.discovery.test_train import Killed, other_cache, timeless
from tests.core.stages.longtail import tiny
from tests.core.stages.longtail.tiny import EVERY_SWITCH
from tests.core.stages.tiny import refused

FULL = EVERY_SWITCH | {"stage3_epoch": 3}
ON_CPU = {"gpu": "cpu", "threads": 1, "num_workers": 1, "use_amp": False}
KINDS = {
    "plain": {"loss_type": "balanced_softmax"},
    "crt with average": {"loss_type": "crt", "use_ema": True, "ema_decay": 0.7},
    "ldam": {"loss_type": "ldam_drw", "optimizer": "sgd"},
    "adjusted average": {"loss_type": "logit_adjustment", "use_ema": True, "ema_decay": 0.7, "accumulation_steps": 2},
}


def comparable(state: states.TrainState) -> dict:
    """Return everything of a state but times and where it was resumed from, as values that compare."""
    tensors = {name: value.numpy().tobytes() for name, value in state.model.items()}
    slots = {
        f"{i}.{slot}": torch.as_tensor(value).numpy().tobytes() for i, s in state.optimizer["state"].items() for slot, value in s.items()
    }
    facts = {name: value for name, value in state.facts.items() if name != "config"}
    groups = json.loads(json.dumps(state.optimizer["param_groups"]))
    return {"epoch": state.epoch, "facts": facts, "groups": groups, "history": timeless(state.history)} | tensors | slots


def one_epoch_further(place, monkeypatch, checkpoint, epoch: int, **options) -> states.TrainState:
    """Return the state after one epoch of a training that resumed from a checkpoint of `epoch`."""
    with monkeypatch.context() as patch:
        patch.setattr(train.LongtailTraining, "stop", property(lambda self: epoch + 1))
        training = place.training(resume=str(checkpoint), **options)
        assert training.epoch == epoch
        training.fit()
        return states.load_checkpoint(training.work / "checkpoints" / states.checkpoint_name(epoch + 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_training_is_the_same_at_every_epoch_boundary(place, monkeypatch, kind):
    """Each epoch from its checkpoint gives the next checkpoint, bit by bit: so any number of interruptions changes nothing."""
    options = FULL | KINDS[kind] | {"save_freq": 1}
    whole = place.fitted(**options)
    folder = whole.work / "checkpoints"
    assert len(timeline.acting(whole.config)) >= 13 and whole.history[-1][0] == 7
    for epoch in range(1, 7):
        found = one_epoch_further(place, monkeypatch, folder / states.checkpoint_name(epoch), epoch, **options)
        expected = comparable(states.load_checkpoint(folder / states.checkpoint_name(epoch + 1)))
        found = comparable(found)
        assert found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == [], epoch


def killed_after(place, monkeypatch, epoch: int, **options) -> None:
    """Start a training and end it right after the checkpoint of `epoch`."""
    finish = train.LongtailTraining.finish_epoch

    def finish_and_die(self, finished, metrics):
        finish(self, finished, metrics)
        if finished == epoch:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train.LongtailTraining, "finish_epoch", finish_and_die)
        with pytest.raises(Killed):
            place.fitted(**options)


def test_a_training_killed_twice_continues_by_itself_to_the_same_result(place, monkeypatch):
    options = {"epochs": 4, "stage3_epoch": 1, "use_ema": True, "center_update_epoch": 2, "use_cosine_classifier": True}
    whole, _run = place.publish(**options)
    other_cache(place, monkeypatch, "second")
    killed_after(place, monkeypatch, 1, **options)
    killed_after(place, monkeypatch, 2, **options)
    resumed = place.training(**options)
    assert resumed.epoch == 2
    resumed.fit()
    summary = resumed.publish()
    assert summary["weights_digest"] == whole["weights_digest"] and timeless(summary["history"]) == timeless(whole["history"])
    assert summary["best"] == whole["best"] and [step for _, step in resumed.run.history][:4] == [1, 2, 3, 4]
    assert resumed.run.forwarded[-1][1] == 4


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(place, monkeypatch, capsys):
    whole = place.fitted(epochs=3)
    other_cache(place, monkeypatch, "second")
    killed_after(place, monkeypatch, 2, epochs=3)
    (newest,) = (place.folder / "second").rglob("epoch_0002.safetensors")
    newest.write_bytes(newest.read_bytes()[:-100])
    resumed = place.training(epochs=3)
    assert resumed.epoch == 1 and "epoch_0002.safetensors is damaged" in capsys.readouterr().err
    resumed.fit()
    assert resumed.digest() == whole.digest()


def choose(monkeypatch, epoch: int) -> None:
    """Let a given epoch be the best."""
    monkeypatch.setattr(train.LongtailTraining, "score", lambda self, metrics, at: 1.0 if at == epoch else 0.0)


def predicted(path) -> list[tuple[str, float]]:
    with open(path, newline="") as file:
        return [(row["predicted"], float(row["confidence"])) for row in csv.DictReader(file)]


@pytest.fixture
def served(monkeypatch, tmp_path):
    """Return the folder of what would be registered: no registry takes part."""

    def keep(_run, name, data, *_rest):
        shutil.copytree(data, tmp_path / "served")
        return f"models:/{name}/1"

    monkeypatch.setattr("core.tracking.registry.register", keep)
    return tmp_path / "served"


BEST = [
    ("plain", 1),
    ("plain", 3),
    ("plain", 6),
    ("crt with average", 6),  # none of the epochs before the new classifier can be the best
    ("crt with average", 7),
    ("ldam", 4),
    ("adjusted average", 5),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "best"), BEST)
def test_what_was_scored_is_saved_evaluated_and_served(place, monkeypatch, served, tmp_path, kind, best):
    """Whatever the network has become since: its head, size, average, frozen parts are those of the best epoch."""
    choose(monkeypatch, best)
    summary, run = place.publish(**FULL | KINDS[kind] | {"register": True})
    assert summary["best"]["epoch"] == best and summary["model"] == "models:/taxon-longtail-glyphs/1"
    scored = {name.removeprefix("val/"): value for name, value in summary["history"][best - 1][1].items() if name.startswith("val/")}
    published = json.loads((run.place / "evaluation" / "val" / "metrics.json").read_text())
    assert {name: published[name] for name in scored} == scored
    assert {name: summary["best_metrics"][f"best/val/{name}"] for name in scored} == scored
    trained = rebuild.open_checkpoint(LongtailEvaluateConfig(checkpoint=str(run.place), **ON_CPU))
    assert trained.epoch == best and trained.size == (12 if best <= 4 else 16)
    assert states.weights_digest(trained.model.state_dict()) == summary["weights_digest"] == run.tagged["taxon.weights_digest"]
    logits = trained.m.outputs(trained.model, "val", trained.size)["label"]
    assert classification_report.report(trained.m.data, "val", logits).metrics == scored
    answers = ClassifierPredictor(served).predict({"image": [str(path) for path in sorted((place.images / "val").rglob("*.png"))]})
    expected = predicted(run.place / "evaluation" / "val" / "predictions.csv")
    assert [answer["class"] for answer in answers] == [name for name, _ in expected]
    assert [answer["confidence"] for answer in answers] == pytest.approx([confidence for _, confidence in expected], abs=1e-5)


def test_a_checkpoint_of_a_frozen_phase_holds_no_backbone_and_of_a_partly_frozen_one_its_last_stage(place):
    training = place.fitted(epochs=3, stage2_epoch=1, stage3_epoch=2, use_ema=True, save_freq=1)
    held = {}
    for epoch in (1, 2, 3):
        names = states.load_checkpoint(training.work / "checkpoints" / states.checkpoint_name(epoch)).model
        for prefix in ("model.", "average."):
            held[epoch, prefix] = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    everything = set(training.task.model.state_dict())
    heads = {name for name in everything if not name.startswith("net.")}
    assert heads == {"heads.label.weight", "heads.label.bias", "logit_bias"}
    for prefix in ("model.", "average."):
        assert held[1, prefix] == heads and held[3, prefix] == everything
        assert held[2, prefix] == heads | {name for name in everything if ".blocks.2." in name}


def test_training_and_validation_see_the_same_image_size_in_every_epoch(place):
    training = place.training(epochs=3, progressive_resize_epoch=1)
    seen, record = [], lambda model, given: seen.append((model.training, given[0].shape[-1]))
    training.task.model.register_forward_pre_hook(record)
    training.fit()
    switch = seen.index((True, 16))
    assert set(seen[:switch]) == {(True, 12), (False, 12)} and set(seen[switch:]) == {(True, 16), (False, 16)}
    assert [size for mode, size in seen if not mode] == [12, 16, 16]


def test_tau_is_chosen_on_validation_and_shifts_what_is_scored_but_not_what_trains(place):
    plain, adjusted = place.fitted(loss_type="ce"), place.fitted(loss_type="logit_adjustment")
    for (_, one), (_, other) in zip(plain.history, adjusted.history, strict=True):
        assert one["L_label"] == other["L_label"] and other["tau"] in train.TAUS and "tau" not in one
    counts = np.array(tiny.COUNTS["train"])
    for model in (adjusted.task.model, adjusted.task.scored):
        bias = -adjusted.history[-1][1]["tau"] * np.log(counts / counts.sum())
        np.testing.assert_allclose(model.logit_bias.numpy(), bias, rtol=1e-5)
    same = {n: v for n, v in adjusted.task.model.state_dict().items() if n != "logit_bias"}
    assert all(torch.equal(value, plain.task.model.state_dict()[name]) for name, value in same.items())
    best = max(metrics["val/balanced_accuracy"] for metrics in _by_tau(adjusted))
    assert adjusted.history[-1][1]["val/balanced_accuracy"] == pytest.approx(best)


def _by_tau(training) -> list[dict[str, float]]:
    """Return the metrics of every tau, by hand."""
    model = training.task.scored
    chosen = model.logit_bias.clone()
    found, counts = [], np.array(tiny.COUNTS["train"])
    model.logit_bias.zero_()
    logits = training.m.outputs(model, "val", 12)["label"]
    for tau in train.TAUS:
        shifted = logits - tau * np.log(counts / counts.sum())
        found.append(
            {f"val/{name}": value for name, value in classification_report.report(training.m.data, "val", shifted).metrics.items()}
        )
    model.logit_bias.copy_(chosen)
    return found


def test_the_average_is_what_is_scored_saved_and_named(place):
    training = place.fitted(use_ema=True, ema_decay=0.5)
    assert training.digest() == states.weights_digest(dict(training.task.ema.module.state_dict()))
    assert training.digest() != states.weights_digest(dict(training.task.model.state_dict()))
    logits = training.m.outputs(training.task.ema.module, "val", 12)["label"]
    expected = classification_report.report(training.m.data, "val", logits).metrics
    assert {name: training.history[-1][1][f"val/{name}"] for name in expected} == expected


def test_a_training_that_no_longer_improves_ends_early_and_its_best_is_published(place, monkeypatch):
    scores = {1: 0.5, 2: 0.9, 3: 0.9, 4: 0.2, 5: 1.0}
    monkeypatch.setattr(train.LongtailTraining, "score", lambda self, metrics, epoch: scores[epoch])
    summary, _run = place.publish(epochs=5, early_stopping_patience=2)
    assert (summary["epoch"], summary["best"]["epoch"], summary["best_metrics"]["best_epoch"]) == (4, 2, 2.0)
    assert place.publish(epochs=5)[0]["best"]["epoch"] == 5


SCRIPTED = {1: 0.2, 2: 0.99, 3: 0.4, 4: 0.3, 5: 0.6, 6: 0.5}


@pytest.mark.parametrize("threshold", [-1.0, 0.55, 0.95])
def test_the_best_epoch_is_one_of_those_with_the_new_classifier(place, monkeypatch, threshold):
    monkeypatch.setattr(train.LongtailTraining, "score", lambda self, metrics, epoch: SCRIPTED[epoch])
    training = place.fitted(epochs=6, loss_type="crt", crt_epoch=3, save_best_thresh=threshold, save_freq=0)
    assert training.facts["best"]["epoch"] == (0 if threshold > 0.9 else 5)
    kept = list(states.read_index(training.work / "checkpoints"))
    assert kept == ([] if threshold > 0.9 else ["epoch_0005.safetensors"]) + ["epoch_0006.safetensors"]


def test_patience_waits_for_the_new_classifier_and_counts_from_its_first_epoch(place, monkeypatch):
    scores = {1: 0.9, 2: 0.3, 3: 0.2, 4: 0.1, 5: 0.5, 6: 0.4, 7: 0.3, 8: 1.0}
    monkeypatch.setattr(train.LongtailTraining, "score", lambda self, metrics, epoch: scores[epoch])
    training = place.fitted(epochs=8, loss_type="crt", crt_epoch=4, early_stopping_patience=2)
    assert (training.history[-1][0], training.facts["best"]["epoch"]) == (7, 5)


def test_a_training_with_a_new_classifier_publishes_one_that_learnt(place):
    """Balanced accuracy is back to what it was before the new classifier, whose epochs alone can be the best."""
    options = {"epochs": 16, "loss_type": "crt", "crt_epoch": 10, "lr": 5e-3, "batch_size": 4}
    summary, _run = place.publish(**options)
    balanced = {epoch: metrics["val/balanced_accuracy"] for epoch, metrics in summary["history"]}
    assert summary["best"]["epoch"] > 10
    assert summary["best_metrics"]["best/val/balanced_accuracy"] == balanced[summary["best"]["epoch"]]
    assert summary["best"]["score"] >= max(balanced[epoch] for epoch in range(1, 11)) - 0.1 > 0.5


def test_a_run_shows_its_timeline_data_parameters_and_switches(place, capsys):
    _summary, run = place.publish(epochs=2, stage3_epoch=1, mixup_disable_epoch=1)
    said = capsys.readouterr().err
    lines = json.loads((run.place / "timeline.json").read_text())
    assert lines == timeline.describe(place.config(epochs=2, stage3_epoch=1, mixup_disable_epoch=1)) and len(lines) == 3
    assert all(f"taxon: {line}\n" in said for line in lines)
    assert "taxon: epoch 1: trained head -> all, mixup_alpha 0.4 -> 0\n" in said
    assert run.datasets[0][0] == "glyphs" and run.has_started and run.given["epochs"] == 2
    assert "28 training images, 4 classes, 12 down to 3 images" in run.noted
    assert not list((place.folder / "cache" / "work").iterdir())
    assert {"manifest.json", "summary.json", "config.json", "checkpoints/epoch_0002.safetensors"} <= set(run.files())
    for part in ("val", "test"):
        wanted = {"metrics.json", "per_class.csv", "predictions.csv", "per_class.png", "confusion.png", "reliability.png"}
        assert {f"evaluation/{part}/{name}" for name in wanted} <= set(run.files())


def test_without_a_test_part_only_validation_is_evaluated(place, tmp_path):
    images = tiny.make_images(tmp_path / "two" / "glyphs", counts={part: tiny.COUNTS[part] for part in ("train", "val")})
    summary, run = place.publish(images=images)
    assert not [name for name in run.files() if name.startswith("evaluation/test")]
    assert "best/test/accuracy" not in summary["best_metrics"] and "best/val/accuracy" in summary["best_metrics"]


def test_without_validation_the_last_epoch_is_chosen_where_that_is_asked_for(place, tmp_path):
    images = tiny.make_images(tmp_path / "two" / "glyphs", counts={part: tiny.COUNTS[part] for part in ("train", "test")})
    summary, _run = place.publish(images=images, select_by="last", val_share=0.0)
    assert summary["best"]["epoch"] == 2 and "best/test/accuracy" in summary["best_metrics"]
    assert not [name for name in summary["best_metrics"] if name.startswith("best/val")]
    line = "but there are none and val_share = 0 splits none off; give val_dir or val_meta"
    assert line in refused(lambda: place.training(images=images, val_share=0.0))
    assert line in refused(lambda: place.training(images=images, val_share=0.0, select_by="last", loss_type="logit_adjustment"))
    single = tiny.make_images(tmp_path / "one" / "glyphs", counts={"train": (1, 1, 1, 1)})
    assert "there are none and each class is one image or group" in refused(lambda: place.training(images=single))


@pytest.fixture
def unvalidated(tmp_path):
    """Return a folder of images without a validation part."""
    return tiny.make_images(tmp_path / "two" / "glyphs", counts={part: tiny.COUNTS[part] for part in ("train", "test")})


def test_a_validation_part_is_split_off_where_none_is_given_and_is_never_trained_on(place, unvalidated, capsys):
    summary, run = place.publish(images=unvalidated, epochs=1, val_share=0.25)
    said = f"7 of the 28 images of {unvalidated}/train are it (val_share = 0.25, seed = 42)"
    assert f"taxon: no validation part was given: {said}\n" in capsys.readouterr().err
    assert "21 training images" in run.noted and "7 images are split off the training part" in run.noted
    assert summary["best"]["score"] == summary["best_metrics"]["best/val/balanced_accuracy"]
    with open(run.place / "evaluation" / "val" / "predictions.csv", newline="") as file:
        held = [unvalidated / row["image"] for row in csv.DictReader(file)]
    named = flat(items_of([digest.of_bytes(path.read_bytes()) for path in held]))
    record = read(next((run.place / "checkpoints").glob("epoch_*.safetensors")))
    everything = {digest.of_bytes(path.read_bytes()) for path in (unvalidated / "train").rglob("*.png")}
    assert len(named) == 7 and record.chosen == named
    assert record.trained == flat(items_of(everything)) - named


def test_what_is_split_off_is_in_the_stage_key_and_found_again_for_comparisons(place, unvalidated, tmp_path):
    one = place.training(images=unvalidated)
    copy = shutil.copytree(unvalidated, tmp_path / "moved" / "glyphs")
    assert place.training(images=copy).key == one.key != place.training(images=unvalidated, val_share=0.3).key
    assert place.training(images=place.images).key == place.training(images=place.images, val_share=0.3).key  # it has a part
    answers = [one.m.data.class_names[0]] * len(one.m.data.val)
    found = held_out.evaluation("longtail", "accuracy", one.m.data, answers, one.config, one.data_options, one.lineage)
    again = held_out.load("longtail", found.options | {"data_root": str(copy)}, "val")
    assert again.digest == found.data and len(again) == len(one.m.data.val) == 4 and again.known_to(found.trained) == 0
    test = held_out.load("longtail", found.options, "test")
    assert test.digest == found.test and len(test) == sum(tiny.COUNTS["test"])


def test_a_checkpoint_is_evaluated_on_the_part_that_its_training_split_off(place, unvalidated, tmp_path):
    _summary, run = place.publish(images=unvalidated, epochs=1, seed=3)
    copy = shutil.copytree(unvalidated, tmp_path / "moved" / "glyphs")
    opened = rebuild.open_checkpoint(LongtailEvaluateConfig(checkpoint=str(run.place), data_root=str(copy), **ON_CPU))
    assert opened.m.data.digest == place.training(images=unvalidated, seed=3).m.data.digest
    older = states.load_checkpoint(opened.path)
    del older.facts["config"]["val_share"]
    assert rebuild.trained_config(older).val_share == 0 and rebuild.trained_config(states.load_checkpoint(opened.path)).val_share == 0.1


def test_duplicates_across_parts_are_said(place, tmp_path, capsys):
    images = tiny.make_images(tmp_path / "copied" / "glyphs")
    shutil.copy(images / "train" / "bar" / "00.png", images / "test" / "bar" / "99.png")
    run = place.run()
    train.LongtailTraining(train.prepare(place.config(images=images)), run)
    assert run.tagged["taxon.duplicates_across_parts"] == "1"
    assert "1 images are in more than one part" in capsys.readouterr().err
