"""tune_longtail: its space, honest metrics, and a best configuration that train_longtail runs."""

from __future__ import annotations

import json

import pytest

from core import config as configuration
from core.errors import UserError
from core.losses.label import LOSSES
from core.stages.longtail.config import LongtailTrainConfig
from entrypoints import train_longtail, tune_longtail
from tests.core.stages.longtail import tiny
from tests.tuning.conftest import FINISHED
from tuning import longtail
from tuning.config import TuneLongtailConfig
from tuning.space import Choice

NEVER = [f"--{option}=-1" for option in tiny.NOTHING_SWITCHES]
TINY = (
    *("--backbone=small_cnn", "--pretrained=false", "--image_size=12", "--epochs=2", "--warmup_epochs=0", "--batch_size=8"),
    *("--gpu=cpu", "--threads=1", "--num_workers=1", "--use_amp=false", *NEVER, "--stage3_epoch=0"),
)


def searched(**options) -> dict[str, str]:
    config = TuneLongtailConfig(**options)
    return {name: str(one) for name, one in longtail.SPACE.parameters(config, longtail.SPACE.base(config)).items()}


def test_the_space_is_what_the_command_says():
    assert searched() == {
        "lr": "5e-05..0.005 log",
        "weight_decay": "1e-06..0.1 log",
        "loss_type": " | ".join(LOSSES),
        "use_ema": "False | True",
        "mixup_alpha": "0..0.8",
    }
    more = searched(also="label_smoothing,sampler_power,cutmix_alpha,batch_size,optimizer,dropout")
    assert set(more) - set(searched()) == {"label_smoothing", "sampler_power", "cutmix_alpha", "batch_size", "optimizer", "dropout"}


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        ({"epochs": 20, "schedule_epochs": 0}, {"ldam_drw", "crt"}),
        ({"drw_epoch": -1}, {"ldam_drw"}),
        ({"model_type": "multitask"}, {"ldam_drw"}),
        ({"model_type": "fewshot"}, {"crt"}),
        ({"epochs": 20}, set()),
        ({"crt_epoch": 49}, {"crt"}),  # one epoch is too few for a new classifier
    ],
)
def test_a_loss_that_would_never_act_or_be_refused_is_not_searched(options, absent):
    everything = {*LOSSES}
    assert everything - set(searched(**options)["loss_type"].split(" | ")) == absent


def test_mixup_is_searched_only_where_there_is_mixup():
    assert "mixup_alpha" not in searched(mixup_prob=0.0)
    assert "mixup_alpha" not in searched(epochs=1) and "mixup_alpha" in searched(epochs=2)


def test_everything_that_can_be_searched_is_an_option_of_the_training_within_its_bounds():
    base = LongtailTrainConfig()
    for name, parameter in {**longtail.ranges(base), **longtail.also(base)}.items():
        for value in parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high):
            configuration.parse(LongtailTrainConfig, [f"--{name}={str(value).lower()}"], "train_longtail")
            longtail.prepare(LongtailTrainConfig(**{name: value}))


def test_metrics_are_of_validation_images_alone():
    values = {"val/balanced_accuracy": 0.1, "val/accuracy": 0.2, "val/macro_f1": 0.3, "val/tail_accuracy": 0.4}
    assert {f"val/{name}": metric(values) for name, metric in longtail.SPACE.metrics.items()} == values


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"sampler": "grid"}, "there is no grid"),
        ({"metric": "test/accuracy"}, "would leak"),
        ({"metric": "balanced_acuracy"}, "did you mean 'balanced_accuracy'"),
        ({"lr": 0.1}, "lr = 0.1 is what this study searches"),
        ({"bounds": "lr=0.1:0.01"}, "bounds of lr cross"),
        ({"also": "drop"}, "'drop' cannot be searched"),
        ({"data_root": "/absent"}, "data_root = '/absent' is no folder"),
        ({"n_trials": 0}, "n_trials = 0"),
        ({"epochs": 0}, "epochs = 0"),
    ],
)
def test_mistakes_are_one_line(options, part):
    with pytest.raises(UserError) as caught:
        longtail.study(TuneLongtailConfig(**options))
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_without_validation_images_there_is_nothing_to_compare_by(tmp_path):
    tiny.make_images(tmp_path, counts={"train": (4, 3, 2, 2)})
    for select_by in ("balanced_accuracy", "last"):
        with pytest.raises(UserError, match="validation images"):
            longtail.study(TuneLongtailConfig(data_root=str(tmp_path), select_by=select_by, val_share=0.0))


@pytest.mark.slow
def test_a_study_gives_a_configuration_that_train_longtail_runs(bench, tmp_path):
    images = tiny.make_images(tmp_path / "glyphs")
    words = (f"--data_root={images}", "--n_trials=3", "--pruner=none", "--bounds=lr=0.0005:0.005", *TINY)
    assert tune_longtail.main(list(words)) == 0
    run, best = bench.study_run(), bench.study().best_trial
    assert len(bench.trials(FINISHED)) == 3
    child = bench.client.get_run(best.user_attrs["run_id"])
    assert not any(name.startswith(("test/", "best/test/")) for name in child.data.metrics)
    assert not bench.artifact(child, "checkpoints").exists() and not bench.artifact(child, "evaluation").exists()
    written = json.loads(bench.artifact(run, "best.json").read_text())
    assert written["lr"] == best.params["lr"] and not {"register", "save_freq", "linear_probe"} & written.keys()
    assert train_longtail.main([f"--config=runs:/{run.info.run_id}/best.json", "--gpu=cpu", "--register=false"]) == 0
    trained = next(
        one for one in bench.runs() if one.data.tags["taxon.entry_point"] == "train_longtail" and "taxon.trial" not in one.data.tags
    )
    assert trained.data.metrics["best/val/balanced_accuracy"] == pytest.approx(best.value)
