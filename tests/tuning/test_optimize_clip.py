"""tune_optimize_clip: the older grid, what acts in which kind of training, and a best configuration that optimize_clip runs."""

from __future__ import annotations

import json
from itertools import product

import pytest

from core import config as configuration
from core.errors import UserError
from core.stages.posts import features
from core.stages.posts.config import OptimizeClipConfig
from entrypoints import optimize_clip as training
from entrypoints import tune_optimize_clip
from tests.core.stages.posts import tiny_posts
from tests.tuning.conftest import FINISHED
from tuning import optimize_clip
from tuning.config import TuneOptimizeClipConfig
from tuning.space import Choice

LOCKED = {"image_encoder_name": "small_cnn", "text_encoder_name": "clip:small-32x1", "lock_image": True}
TINY = (
    *("--image_encoder_name=small_cnn", "--text_encoder_name=clip:small-32x1", "--context_length=12", "--embed_dim=16"),
    *("--image_size=16", "--epochs=2", "--early_stop=0", "--cached_views=1", "--num_workers=1", "--threads=1", "--gpu=cpu"),
    *("--use_amp=false", "--lock_image=true", "--lock_text=true"),
)


def searched(**options) -> dict[str, str]:
    config = TuneOptimizeClipConfig(**options)
    return {name: str(one) for name, one in optimize_clip.SPACE.parameters(config, optimize_clip.SPACE.base(config)).items()}


def test_the_grid_is_the_older_one():
    names = ("lr", "batch_size", "weight_decay", "dropout")
    points = {tuple(point[name] for name in names) for point in optimize_clip.SPACE.points(1)}
    assert points == set(product([1e-5, 2e-5], [4, 8], [1e-4, 5e-4], [0.1, 0.2])) and len(points) == 16
    assert set(searched(sampler="grid")) == set(names)


def test_the_space_is_what_the_command_says():
    assert searched() == {
        "lr": "1e-06..0.0001 log",
        "batch_size": "4 | 8 | 16 | 32 | 64",
        "weight_decay": "1e-06..0.1 log",
        "dropout": "0..0.5",
        "head_variant": "base | ln | mlp | gated",
        "loss": "ce | focal | cb | combo",
    }
    also = {"gamma", "warmup_ratio", "use_cosine", "logit_adjustment", "head_lr", "layer_decay"}
    assert set(searched(also=",".join(sorted(also)))) - set(searched()) == also


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({}, "lr"),
        (LOCKED, "head_lr"),
        ({"lock_image": True}, "lr"),
        ({"lock_image": True, "modality": "image"}, "head_lr"),
        ({"epochs": 2, "freeze_epochs": 2}, "head_lr"),
    ],
)
def test_the_learning_rate_that_acts_is_searched(options, rate):
    assert {"lr", "head_lr"} & set(searched(**options)) == {rate}


def test_a_gate_needs_both_sides():
    assert searched(modality="text")["head_variant"] == "base | ln | mlp"


@pytest.mark.parametrize(
    ("modality", "names"),
    [
        ("text", {"regularisation", "word_ngrams", "char_ngrams", "min_count"}),
        ("image", {"image_regularisation"}),
        ("both", {"regularisation", "word_ngrams", "char_ngrams", "min_count", "image_regularisation", "image_share"}),
    ],
)
def test_the_reference_line_has_a_space_of_its_own(modality, names):
    assert set(searched(encoder="tfidf", modality=modality)) == names


@pytest.mark.parametrize("base", [OptimizeClipConfig(), OptimizeClipConfig(encoder="tfidf")], ids=["towers", "tfidf"])
def test_everything_that_can_be_searched_is_an_option_of_the_training_within_its_bounds(base):
    for name, parameter in {**optimize_clip.ranges(base), **optimize_clip.also(base)}.items():
        for value in parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high):
            configuration.parse(OptimizeClipConfig, [f"--{name}={str(value).lower()}"], "optimize_clip")
            optimize_clip.prepare(OptimizeClipConfig(**{name: value}))


def test_metrics_are_of_validation_posts_alone():
    values = {"val/macro_f1": 0.1, "val/accuracy": 0.2, "val/balanced_accuracy": 0.3}
    assert {f"val/{name}": metric(values) for name, metric in optimize_clip.SPACE.metrics.items()} == values


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"sampler": "grid", **LOCKED}, "none trains here"),
        ({"sampler": "grid", "encoder": "tfidf"}, "none trains here"),
        ({"metric": "test/macro_f1"}, "would leak"),
        ({"bounds": "dropout=0.4:0.1"}, "bounds of dropout cross"),
        ({"head_variant": "ln"}, "head_variant = ln is what this study searches"),
        ({"also": "gamm"}, "did you mean 'gamma'"),
        ({}, "no train posts"),
        ({"n_trials": 0}, "n_trials = 0"),
        ({"sampler_seed": "none"}, "needs a seed"),
    ],
)
def test_mistakes_are_one_line(options, part):
    with pytest.raises(UserError) as caught:
        optimize_clip.study(TuneOptimizeClipConfig(**options))
    assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_study_gives_a_configuration_that_optimize_clip_runs(bench, tmp_path, monkeypatch):
    computed = []
    monkeypatch.setattr(features, "_memory", {})
    monkeypatch.setattr(features, "embed", lambda *a, embed=features.embed: computed.append(a[4]) or embed(*a))
    posts = tiny_posts.write(tmp_path / "posts")
    words = (f"--data_dir={posts}", f"--data_root={posts}", "--n_trials=3", "--pruner=none", *TINY)
    assert tune_optimize_clip.main(list(words)) == 0
    assert len(computed) == 5  # two views of the training posts, one of validation's, and both parts' texts: once, not once a trial
    run, best = bench.study_run(), bench.study().best_trial
    assert len(bench.trials(FINISHED)) == 3
    child = bench.client.get_run(best.user_attrs["run_id"])
    assert not any("test/" in name for name in child.data.metrics)
    assert not any(bench.artifact(child, name).exists() for name in ("checkpoints", "predictor", "evaluation"))
    written = json.loads(bench.artifact(run, "best.json").read_text())
    assert written["head_lr"] == best.params["head_lr"] and "register" not in written
    assert training.main([f"--config=runs:/{run.info.run_id}/best.json", "--register=false"]) == 0
    trained = next(
        one for one in bench.runs() if one.data.tags["taxon.entry_point"] == "optimize_clip" and "taxon.trial" not in one.data.tags
    )
    assert trained.data.metrics["best/val/macro_f1"] == pytest.approx(best.value)


@pytest.mark.slow
def test_a_study_of_the_reference_line_gives_a_configuration_that_optimize_clip_runs(bench, tmp_path):
    posts = tiny_posts.write(tmp_path / "posts")
    words = (
        f"--data_dir={posts}",
        f"--data_root={posts}",
        "--n_trials=2",
        "--encoder=tfidf",
        "--modality=text",
        "--gpu=cpu",
        "--threads=1",
    )
    assert tune_optimize_clip.main(list(words)) == 0
    best = bench.study().best_trial
    assert training.main([f"--config=runs:/{bench.study_run().info.run_id}/best.json", "--register=false"]) == 0
    trained = next(
        one for one in bench.runs() if one.data.tags["taxon.entry_point"] == "optimize_clip" and "taxon.trial" not in one.data.tags
    )
    assert trained.data.metrics["best/val/macro_f1"] == pytest.approx(best.value)
