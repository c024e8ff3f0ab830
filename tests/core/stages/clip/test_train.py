"""Exact resume, refusals, what is published, and one rule of training mode, on tiny trainings of the real stage."""

from __future__ import annotations

import json

import pytest
import torch

from core.stages.clip import train
from core.training import state as states
from tests.core.models import tiny_sentences
from tests.core.stages.clip import tiny_clip
from tests.core.stages.discovery.test_train import Killed, timeless
from tests.core.stages.tiny import refused

KINDS = {
    "superclip with words": {"use_superclip_loss": True, "word_supervision": True},
    "kept views": {"grad_from_block": 2, "view_cache": 2, "use_weighted_sampling": True},
    "locked towers": {"lock_image": True, "lock_text": True},
    "batch norm": {"image_encoder_name": "resnet10t"},
    "a locked sentence encoder": {"text_encoder_name": "hf:", "lock_text": True, "word_supervision": True},
    "a trained sentence encoder": {"text_encoder_name": "hf:", "context_length": 0, "embed_dim": 32},
}


def killed_after(place, monkeypatch, epoch: int, **options) -> None:
    """Start a training and end it right after the checkpoint of `epoch`."""
    finish = train.ClipTraining.finish_epoch

    def finish_and_die(self, finished, metrics):
        finish(self, finished, metrics)
        if finished == epoch:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train.ClipTraining, "finish_epoch", finish_and_die)
        with pytest.raises(Killed):
            place.fitted(**options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_training_continues_exactly(clip_place, monkeypatch, kind):
    options = {"epochs": 3, "zero_shot": True} | KINDS[kind]
    if options.get("text_encoder_name") == "hf:":
        options["text_encoder_name"] += str(tiny_sentences.write(clip_place.folder / "encoder"))
    whole = clip_place.fitted(**options)
    monkeypatch.setenv("TAXON_CACHE", str(clip_place.folder / "second"))
    killed_after(clip_place, monkeypatch, 2, **options)
    resumed = clip_place.training(**options)
    assert resumed.epoch == 2
    resumed.fit()
    assert resumed.digest() == whole.digest() and timeless(resumed.history) == timeless(whole.history)
    assert resumed.facts["baselines"] == whole.facts["baselines"] != {} and resumed.facts["best"] == whole.facts["best"]
    assert [step for _, step in resumed.run.history] == [1, 2, 3]
    assert all(torch.equal(value, resumed.before[name]) for name, value in whole.before.items())


def test_a_checkpoint_that_is_named_is_continued(clip_place, monkeypatch):
    whole, run = clip_place.publish(epochs=2, scheduler="none", save_freq=1)
    monkeypatch.setenv("TAXON_CACHE", str(clip_place.folder / "second"))
    resumed = clip_place.fitted(epochs=2, scheduler="none", resume=str(run.place / "checkpoints" / "epoch_0001.safetensors"))
    last = states.load_checkpoint(run.place / whole["checkpoint"])
    assert all(torch.equal(value, last.model[name]) for name, value in resumed.weights().items())


@pytest.mark.parametrize(
    "options, named",
    [
        ({"random_state": 1}, "split_digest"),
        ({"img_size": 20}, "img_size"),
        ({"embed_dim": 8}, "embed_dim"),
        ({"lock_text": True}, "frozen_digest"),
        ({"text_encoder_name": "clip:small-32x2"}, "towers"),
        ({"word_supervision": True}, "differs"),
        ({"epochs": 1}, "raise epochs"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_by_name(clip_place, options, named):
    _summary, run = clip_place.publish(epochs=2)
    assert named in refused(lambda: clip_place.training(resume=str(run.place), **options))


def test_other_sentences_are_other_data(clip_place):
    _summary, run = clip_place.publish(epochs=1)
    texts = str(tiny_clip.write_sentences(clip_place.folder / "other.json", tiny_clip.SENTENCES | {"bar": "a bar"}))
    assert "another data_digest" in refused(lambda: clip_place.training(resume=str(run.place), class_texts_file=texts))


def test_only_what_trains_is_in_a_checkpoint(clip_place):
    training = clip_place.fitted(epochs=1, lock_image=True)
    (path,) = (training.work / "checkpoints").glob("*.safetensors")
    model = states.load_checkpoint(path).model
    assert not any(name.startswith("towers.visual.body") for name in model)
    trained = sum(p.nbytes for p in training.task.model.parameters() if p.requires_grad)
    assert path.stat().st_size < 1.05 * 3 * trained + 65536  # and AdamW's two moments


def test_what_is_published_is_what_the_specification_lists(clip_place):
    summary, run = clip_place.publish(epochs=2)
    files = set(run.files())
    assert {"config.json", "history.json", "summary.json", "manifest.json", summary["checkpoint"]} <= files
    for part in ("val", "test"):
        assert {f"evaluation/{part}/{name}" for name in ("metrics.json", "per_class.csv", "confusion.png", "reliability.png")} <= files
    assert json.loads((run.place / "history.json").read_text()) == summary["history"]
    assert json.loads((run.place / "config.json").read_text())["epochs"] == 2
    assert {"accuracy", "balanced_accuracy", "macro_f1", "mAP", "ece"} <= {n.removeprefix("best/test/") for n in summary["best_metrics"]}
    assert run.datasets[0][0] == "glyphs" and run.has_started and "| test | trained |" in run.noted
    assert not list((clip_place.folder / "cache" / "work").iterdir())


def test_what_is_scored_is_the_best_epoch(clip_place, monkeypatch):
    digests = {}
    evaluate = train.ClipTraining.evaluate

    def spied(self, epoch):
        digests[epoch] = self.digest()
        return evaluate(self, epoch) | {"val/balanced_accuracy": {1: 0.1, 2: 0.9, 3: 0.2}[epoch]}

    monkeypatch.setattr(train.ClipTraining, "evaluate", spied)
    summary, _run = clip_place.publish(epochs=3, wise_ft=True)
    assert summary["best"]["epoch"] == 2 and summary["weights_digest"] == digests[2]


def test_no_evaluation_leaves_the_model_in_evaluation_mode(clip_place):
    training = clip_place.training(image_encoder_name="resnet10t", zero_shot=True, linear_probe=True)
    model = training.task.model
    for mode in (True, False):
        model.train(mode)
        training.evaluate(1)
        training.m.features(model.towers, training.m.rows["val"])
        assert all(module.training == mode for module in model.modules())


def test_parts_of_one_class_that_are_missing_and_images_in_two_parts_are_said(clip_place, tmp_path, capsys):
    root = tmp_path / "parts"
    for part, names in (("train", tiny_clip.COUNTS), ("val", ("bar", "cross"))):
        tiny_clip.make_images(root / part, dict.fromkeys(names, 4), seed=1)
    clip_place.publish(epochs=1, data_dir=str(root))
    said = capsys.readouterr().err
    assert "val has no image of 2 classes, which it does not score: dot, ring" in said and "images are in more than one part" in said


def test_a_sentence_that_is_too_long_is_said(clip_place, capsys):
    clip_place.training(context_length=4)
    assert "longer than 4 tokens and loses its end: 'a thick bar across the middle" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_the_training(clip_place, monkeypatch):
    losses = train.ClipTask.losses
    monkeypatch.setattr(train.ClipTask, "losses", lambda self, b, e: losses(self, b, e) | {"L_total": torch.tensor(float("nan"))})
    assert "L_total is not finite" in refused(lambda: clip_place.fitted())


def test_behind_a_locked_tower_the_projection_learns_the_glyphs(clip_place):
    options = {"epochs": 30, "use_superclip_loss": True, "lock_image": True, "learning_rate": 1e-2, "val_fraction": 0.3}
    assert max(metrics["val/balanced_accuracy"] for _, metrics in clip_place.fitted(**options).history) > 0.7
