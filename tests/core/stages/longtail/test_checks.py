"""Mistakes in long-tail options, images and checkpoints: one line each, with what is wrong and what to do; late options are named."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from safetensors.numpy import save_file

from core.config import parse
from core.errors import UserError
from core.stages.longtail import checks, evaluate, materials, rebuild, train
from core.stages.longtail.config import LongtailEvaluateConfig, LongtailTrainConfig
from core.training import state as states
from core.training import timeline
from tests.core.stages.longtail import tiny
from tests.core.stages.longtail.tiny import EPOCH_OPTIONS
from tests.core.stages.tiny import refused
from tests.memory_run import MemoryRun

GOOD = LongtailTrainConfig()
ON_CPU = {"gpu": "cpu", "threads": 1, "num_workers": 1, "use_amp": False}


def refusal(**changed) -> str:
    with pytest.raises(UserError) as caught:
        checks.check_training(dataclasses.replace(GOOD, **changed))
    line = str(caught.value)
    assert "\n" not in line and len(line) < 250
    return line


POSITIVE = [
    *("epochs", "batch_size", "lr", "image_size", "progressive_image_size", "accumulation_steps"),
    *("fewshot_hidden", "fewshot_head_lr_scale"),
]
NOT_NEGATIVE = [
    *("weight_decay", "warmup_epochs", "clip_norm", "focal_gamma", "sampler_power", "mixup_alpha", "cutmix_alpha", "center_loss_weight"),
    *("early_stopping_patience", "save_freq", "log_interval", "schedule_epochs", "num_workers", "threads", "seed"),
]
SHARES = ["dropout", "fewshot_dropout", "label_smoothing", "mixup_prob", "cutmix_prob", "ema_decay", "momentum"]


def test_the_defaults_are_accepted_without_a_word(capsys):
    assert checks.check_training(GOOD) is GOOD and capsys.readouterr().err == ""


@pytest.mark.parametrize("model_type", ["baseline", "multitask"])
def test_multitask_as_a_loss_is_the_model_with_plain_cross_entropy(model_type, capsys):
    meant = checks.check_training(dataclasses.replace(GOOD, loss_type="multitask", model_type=model_type))
    assert meant == dataclasses.replace(GOOD, loss_type="ce", model_type="multitask")
    said = "taxon: loss_type = multitask is the older name of model_type = multitask with loss_type = ce\n"
    assert capsys.readouterr().err == said
    assert "drop one of the two" in refusal(loss_type="multitask", model_type="fewshot")
    assert "does not go with model_type = multitask" in refusal(loss_type="multitask", use_cosine_classifier=True)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        *((name, 0, "must be larger than 0") for name in POSITIVE),
        *((name, -1, "must be 0 or more") for name in NOT_NEGATIVE),
        *((name, value, "outside 0..1") for name in SHARES for value in (-0.1, 1.1)),
        *(("val_share", value, "outside 0..0.5; give a share of at most a half") for value in (-0.1, 0.6)),
        *((name, -2, "give an epoch from 0, or -1 for never") for name in EPOCH_OPTIONS),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_it_takes(option, value, said):
    line = refusal(**{option: value})
    assert line.startswith(f"{option} = {value}") and said in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"use_cosine_classifier": True, "model_type": "multitask"},
            "use_cosine_classifier = true does not go with model_type = multitask",
        ),
        ({"loss_type": "crt", "model_type": "fewshot"}, "use baseline"),
        ({"loss_type": "ldam_drw", "model_type": "multitask"}, "needs a cosine classifier"),
        ({"loss_type": "crt", "crt_epoch": -1}, "never trains the new classifier"),
        ({"loss_type": "crt", "crt_epoch": 49}, "crt_epoch = 49 leaves 1 of 50 epochs for the new classifier"),
        ({"loss_type": "crt", "epochs": 20, "crt_epoch": 40}, "crt_epoch = 40 leaves 0 of 20 epochs"),
        ({"loss_type": "crt", "epochs": 7}, "crt_epoch = 40 (of 50, scaled to 7 epochs) leaves 1 of 7 epochs"),
        ({"loss_type": "crt", "epochs": 7, "schedule_epochs": 50}, "(of 50, scaled to 7 epochs) leaves 1 of 7 epochs"),
        ({"use_cosine_classifier": True, "center_update_epoch": -1}, "use_cosine_classifier = true acts from center_update_epoch"),
        ({"use_center_loss": True, "center_update_epoch": -1}, "use_center_loss = true acts from center_update_epoch"),
        ({"weights": "w.safetensors", "pretrained": False}, "drop one of the two"),
        ({"seed": 2**32}, "use one below"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, said):
    assert said in refusal(**options)


@pytest.mark.parametrize("options", [{"crt_epoch": 48}, {"epochs": 12}, {"epochs": 2, "crt_epoch": 0}])
def test_two_epochs_for_a_new_classifier_are_enough(options):
    checks.check_training(dataclasses.replace(GOOD, loss_type="crt", **options))


def test_epoch_options_beyond_the_end_are_named_in_one_warning(capsys):
    checks.check_training(dataclasses.replace(GOOD, epochs=26, schedule_epochs=0))
    said = capsys.readouterr().err
    late = "progressive_resize_epoch (30), center_update_epoch (35), final_clean_epoch (40)"
    assert said == f"taxon: never reached in 26 epochs: {late}\n"
    checks.check_training(dataclasses.replace(GOOD, epochs=26, stage3_epoch=26))
    assert capsys.readouterr().err == "taxon: never reached in 26 epochs: stage3_epoch (26)\n"
    checks.check_training(dataclasses.replace(GOOD, epochs=26))
    assert capsys.readouterr().err == ""


CORRECTIONS = [
    ({"loss_type": "ce"}, True, ""),
    ({"loss_type": "focal"}, True, ""),
    *(({"loss_type": loss}, False, "") for loss in timeline.CORRECTING),
    ({"use_class_weights": True}, False, ""),
    ({"loss_type": "weighted_ce", "use_class_weights": True}, False, ""),
    ({"balance_sampler": True}, True, ""),
    ({"balance_sampler": False}, False, ""),
    ({"balance_sampler": False, "loss_type": "weighted_ce"}, False, ""),
    ({"balance_sampler": True, "sampler_power": 0.0, "loss_type": "weighted_ce"}, True, ""),
    ({"balance_sampler": True, "disable_sampler_epoch": 0, "loss_type": "crt"}, True, ""),
    *(
        ({"balance_sampler": True, "loss_type": loss}, True, f"balance_sampler = true and loss_type = {loss} each")
        for loss in timeline.CORRECTING
    ),
    ({"balance_sampler": True, "use_class_weights": True}, True, "balance_sampler = true and use_class_weights = true each"),
    ({"loss_type": "ldam_drw", "use_class_weights": True}, False, "use_class_weights = true and loss_type = ldam_drw each"),
    (
        {"loss_type": "crt", "use_class_weights": True, "balance_sampler": True},
        True,
        "balance_sampler = true and use_class_weights = true and loss_type = crt each",
    ),
]


@pytest.mark.parametrize(("options", "drawn", "said"), CORRECTIONS)
def test_sizes_are_corrected_for_once_unless_asked_for_twice_which_one_line_says(capsys, options, drawn, said):
    config = dataclasses.replace(GOOD, **options)
    checks.check_training(config)
    lines = capsys.readouterr().err.splitlines()
    assert timeline.first_phase(config).balanced == drawn
    assert len(lines) == bool(said) and (not said or (lines[0].startswith(f"taxon: {said}") and "one of them is enough" in lines[0]))
    if options.get("loss_type") == "balanced_softmax" and said:
        assert "the loss corrects only for what the draws leave" in lines[0]


@pytest.mark.parametrize(("word", "value"), [("auto", "auto"), ("true", True), ("false", False)])
def test_the_sampler_takes_auto_true_and_false(word, value):
    assert parse(LongtailTrainConfig, [f"--balance_sampler={word}"], "train_longtail").balance_sampler == value


@pytest.mark.parametrize(
    "words", [["--loss_type=cel"], ["--model_type=twostage"], ["--scheduler=linear"], ["--select_by=loss"], ["--optimizer=lion"]]
)
def test_a_name_that_is_none_is_refused_with_those_that_are(words):
    line = refused(lambda: parse(LongtailTrainConfig, words, "train_longtail"))
    assert words[0].split("=")[1] in line


def test_an_unknown_backbone_is_named_as_the_option_is(place):
    line = refused(lambda: place.training(backbone="resnet5O"))
    assert line.startswith("backbone=resnet5O is not a timm model") and "model_name" not in line


def test_weights_of_another_architecture(place, tmp_path):
    save_file({"layer.weight": torch.zeros(3, 3).numpy()}, tmp_path / "other.safetensors")
    line = refused(lambda: place.training(weights=str(tmp_path / "other.safetensors"), pretrained=True))
    assert "other.safetensors are not those of backbone=small_cnn" in line


def test_a_size_that_the_network_does_not_take(place):
    options = {"backbone": "vit_tiny_patch16_224", "image_size": 32}
    line = refused(lambda: place.training(**options, progressive_image_size=40, progressive_resize_epoch=1))
    assert line.startswith("progressive_image_size = 40: vit_tiny_patch16_224 does not take it") and "another size" in line
    assert "image_size=40" in refused(lambda: place.training(**options | {"image_size": 40}))
    place.training(**options, progressive_image_size=40)  # never resized: never tried


def test_further_heads_without_anything_known_of_the_classes(place):
    line = refused(lambda: place.training(model_type="multitask"))
    assert line.startswith("model_type = multitask needs crop, disease, severity") and "train_meta" in line
    assert refused(lambda: place.training(loss_type="multitask")) == line


def test_no_data_at_all_and_data_that_is_not_there(place, tmp_path):
    assert "give data_root, train_dir" in refused(lambda: place.training(data_root=""))
    line = refused(lambda: place.training(data_root=str(tmp_path / "nowhere")))
    assert line.startswith(f"data_root = '{tmp_path}/nowhere' is no folder")
    assert "train_dir" in refused(lambda: place.training(data_root="", train_dir=str(tmp_path / "nowhere")))


def copied(place, tmp_path):
    return shutil.copytree(place.images, tmp_path / "mine" / "glyphs")


def test_a_class_only_in_validation_and_images_that_are_none(place, tmp_path):
    images = copied(place, tmp_path)
    (images / "val" / "star").mkdir()
    shutil.copy(images / "val" / "bar" / "00.png", images / "val" / "star" / "00.png")
    assert "class 'star' has images in val" in refused(lambda: place.training(images=images))
    shutil.rmtree(images / "val" / "star")
    (images / "val" / "bar" / "01.png").write_bytes(b"")
    (images / "train" / "dot" / "02.png").write_text("no image")
    line = refused(lambda: place.training(images=images))
    assert "2 of " in line and "bar/01.png" in line and "dot/02.png" in line


def test_selection_by_a_tail_that_validation_does_not_have(place, tmp_path):
    images = copied(place, tmp_path)
    shutil.rmtree(images / "val" / "ring")
    assert "tail_accuracy" in refused(lambda: place.training(images=images, select_by="tail_accuracy"))
    metrics = place.fitted(images=images, epochs=1).history[-1][1]
    assert "val/tail_accuracy" not in metrics and "val/balanced_accuracy" in metrics


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, longtail_images):
    """Return a checkpoint of a tiny training with adamw, of which only the head has trained."""
    with pytest.MonkeyPatch.context() as patch:
        place = tiny.Workplace(tmp_path_factory.mktemp("made"), patch, longtail_images)
        training = place.fitted(epochs=1, stage3_epoch=1)
        return training.work / "checkpoints" / states.checkpoint_name(1)


def reread(checkpoint, tmp_path, **facts):
    """Return a copy of a checkpoint that says something else of itself."""
    state = states.load_checkpoint(checkpoint)
    state.facts |= facts
    return states.save_checkpoint(tmp_path / "edited", state)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backbone": "resnet10t", "image_size": 32}, "another backbone_digest"),
        ({"image_size": 16}, "another image_size"),
        ({"model_type": "fewshot"}, "another model_type"),
        ({"seed": 5}, "another backbone_digest"),
        ({"optimizer": "sgd"}, "the optimizer of the checkpoint to resume from does not fit"),
        ({"use_ema": True}, "does not fit: "),
        ({"stage3_epoch": 0}, "does not fit: "),
        ({"loss_type": "ldam_drw"}, "does not fit: "),
        ({"center_update_epoch": 0, "use_center_loss": True}, "does not fit: "),
    ],
)
def test_a_checkpoint_of_another_training_is_not_continued(place, checkpoint, options, said):
    given = {"stage3_epoch": 1, "progressive_image_size": options.get("image_size", 16)} | options
    assert said in refused(lambda: place.training(resume=str(checkpoint), **given))


def test_a_checkpoint_beyond_the_end_and_of_other_images_is_not_continued(place, checkpoint, tmp_path):
    other = tiny.make_images(tmp_path / "other" / "glyphs", seed=9)
    assert "another data_digest" in refused(lambda: place.training(resume=str(checkpoint), images=other, stage3_epoch=1))
    late = states.load_checkpoint(checkpoint)
    late.epoch = 9
    path = states.save_checkpoint(tmp_path / "late", late)
    assert "raise epochs" in refused(lambda: place.training(resume=str(path), stage3_epoch=1))
    assert "resume" in refused(lambda: place.training(resume=str(tmp_path / "nowhere")))


def evaluating(checkpoint, **options) -> LongtailEvaluateConfig:
    return LongtailEvaluateConfig(checkpoint=str(checkpoint), **ON_CPU | options)


def test_a_checkpoint_of_another_family_is_named(place, tmp_path):
    state = states.TrainState(1, {"head.weight": torch.zeros(2)}, {"state": {}, "param_groups": []}, facts={"data": "digits"})
    path = states.save_checkpoint(tmp_path / "discovery", state)
    assert "is not one of train_longtail" in refused(lambda: rebuild.open_checkpoint(evaluating(path)))
    assert "another data_digest" in refused(lambda: place.training(resume=str(path)))


def test_no_checkpoint_a_missing_one_and_one_that_is_none(place, tmp_path):
    assert refused(lambda: rebuild.open_checkpoint(evaluating(""))).startswith("checkpoint is empty")
    assert "checkpoint" in refused(lambda: rebuild.open_checkpoint(evaluating(tmp_path / "nowhere.safetensors")))
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    assert "damaged" in refused(lambda: rebuild.open_checkpoint(evaluating(tmp_path / "cut.safetensors")))


def test_a_checkpoint_of_other_classes(checkpoint, tmp_path, place):
    images = copied(place, tmp_path)
    for part in ("train", "val", "test"):
        (images / part / "ring").rename(images / part / "wheel")
    line = refused(lambda: rebuild.open_checkpoint(evaluating(checkpoint, data_root=str(images))))
    assert "ring, wheel differs" in line


def test_a_frozen_backbone_that_is_no_longer_the_same(checkpoint, tmp_path, monkeypatch):
    path = reread(checkpoint, tmp_path, backbone_digest="0" * 64)
    assert "give its weights" in refused(lambda: rebuild.open_checkpoint(evaluating(path)))


def test_a_part_without_images_cannot_be_evaluated(checkpoint, tmp_path, place):
    images = copied(place, tmp_path)
    shutil.rmtree(images / "test")
    run = MemoryRun(tmp_path)
    assert "test_dir" in refused(lambda: evaluate.run(evaluating(checkpoint, data_root=str(images)), run))
    assert not run.has_started


def test_nothing_is_built_for_options_that_cannot_be(place, monkeypatch):
    monkeypatch.setattr(materials, "load_data", lambda *_: pytest.fail("read"))
    config = dataclasses.replace(place.config(), use_cosine_classifier=True, model_type="multitask")
    assert "use_cosine_classifier" in refused(lambda: train.run(config, place.run()))
