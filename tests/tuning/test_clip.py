"""tune_clip: its space, honest metrics, one split, and a best configuration that train_clip runs."""

from __future__ import annotations

import json

import pytest

from core import config as configuration
from core.errors import UserError
from core.stages.clip.config import TrainClipConfig
from entrypoints import train_clip, tune_clip
from tests.core.stages.clip import tiny_clip
from tests.tuning.conftest import FINISHED
from tuning import clip
from tuning.config import TuneClipConfig
from tuning.space import Choice

TINY = (
    *("--image_encoder_name=small_cnn", "--text_encoder_name=clip:small-32x1", "--embed_dim=16", "--context_length=12"),
    *("--img_size=16", "--epochs=2", "--gpu=cpu", "--use_amp=false", "--threads=1", "--num_workers=1", "--lock_text=true"),
)


def searched(**options) -> dict[str, str]:
    config = TuneClipConfig(**options)
    return {name: str(one) for name, one in clip.SPACE.parameters(config, clip.SPACE.base(config)).items()}


def test_the_space_is_what_the_command_says():
    always = {
        "learning_rate": "1e-05..0.01 log",
        "weight_decay": "0.0001..0.3 log",
        "temperature": "0.01..0.2 log",
        "use_weighted_sampling": "False | True",
    }
    weights = {"class_loss_weight": "0.5..2", "contrastive_loss_weight": "0.5..2"}
    assert searched() == always | weights and searched(use_superclip_loss=False) == always
    also = {"weight_method", "weight_smooth_factor", "batch_size", "augmentation"}
    assert set(searched(also=",".join(sorted(also)))) - set(searched()) == also


def test_what_cannot_act_is_not_searched():
    for options in ({"also": "augmentation", "lock_image": True}, {"also": "word_supervision_weight"}):
        with pytest.raises(UserError, match="cannot be searched"):
            searched(**options)
    assert "augmentation" in searched(also="augmentation", lock_image=True, view_cache=4)
    assert "word_supervision_weight" in searched(also="word_supervision_weight", word_supervision=True)


def test_everything_that_can_be_searched_is_an_option_of_the_training_within_its_bounds():
    base = TrainClipConfig(use_superclip_loss=True, word_supervision=True)
    for name, parameter in {**clip.ranges(base), **clip.also(base)}.items():
        for value in parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high):
            made = configuration.parse(TrainClipConfig, [f"--{name}={str(value).lower()}", "--use_superclip_loss=true"], "train_clip")
            assert getattr(made, name) == value


def test_metrics_are_of_validation_images_alone():
    values = {"val/balanced_accuracy": 0.1, "val/accuracy": 0.2, "val/macro_f1": 0.3, "val/mAP": 0.4}
    assert {f"val/{name}": metric(values) for name, metric in clip.SPACE.metrics.items()} == values


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"sampler": "grid"}, "there is no grid"),
        ({"use_cv": True}, "trials share one split"),
        ({"fold": 2}, "trials share one split"),
        ({"metric": "test/mAP"}, "would leak"),
        ({"bounds": "temperature=0.2:0.1"}, "bounds of temperature cross"),
        ({"learning_rate": 0.1}, "learning_rate = 0.1 is what this study searches"),
        ({"data_dir": ""}, "data_dir is empty"),
        ({"n_trials": 0}, "n_trials = 0"),
    ],
)
def test_mistakes_are_one_line(options, part):
    with pytest.raises(UserError) as caught:
        clip.study(TuneClipConfig(**{"data_dir": "/absent", "class_texts_file": "/absent.json"} | options))
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_configurations_is_no_option_of_a_study():
    known = {name for name, *_ in configuration.fields_of(TuneClipConfig)}
    assert not known & {"config", "config_file", "multi_config", "register", "resume"}


@pytest.mark.slow
def test_a_study_gives_a_configuration_that_train_clip_runs(bench, tmp_path):
    images = tiny_clip.make_images(tmp_path / "glyphs")
    texts = tiny_clip.write_sentences(tmp_path / "sentences.json")
    words = (f"--data_dir={images}", f"--class_texts_file={texts}", "--n_trials=3", "--pruner=none", *TINY)
    assert tune_clip.main(list(words)) == 0
    run, best = bench.study_run(), bench.study().best_trial
    assert len(bench.trials(FINISHED)) == 3
    child = bench.client.get_run(best.user_attrs["run_id"])
    assert not any("test/" in name for name in child.data.metrics) and not bench.artifact(child, "checkpoints").exists()
    written = json.loads(bench.artifact(run, "best.json").read_text())
    assert written["learning_rate"] == best.params["learning_rate"]
    assert not {"register", "zero_shot", "linear_probe", "few_shot", "wise_ft"} & written.keys()
    assert train_clip.main([f"--config=runs:/{run.info.run_id}/best.json", "--gpu=cpu", "--register=false"]) == 0
    trained = next(one for one in bench.runs() if one.data.tags["taxon.entry_point"] == "train_clip" and "taxon.trial" not in one.data.tags)
    assert trained.data.metrics["best/val/balanced_accuracy"] == pytest.approx(best.value)
