"""Training on posts: it learns, resumes to the bit, and every option acts."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from core import config as configuration
from core.errors import UserError
from core.serving import posts as serving
from core.stages import execute
from core.stages.posts import checks, features, materials, model, optimize, publish
from core.stages.posts.config import OptimizeClipConfig
from core.tracking import served
from core.tracking.stage import Finished
from core.training import state as states
from tests.core.stages.posts import tiny_posts
from tests.core.stages.tiny import kept_in
from tests.memory_run import MemoryRun


@pytest.fixture
def published(root, tmp_path, work, undrawn):
    def publish(**options):
        run = MemoryRun(tmp_path / "published" / str(len(list(tmp_path.glob("published/*")))))
        run.place.mkdir(parents=True)
        return optimize.train(tiny_posts.config(root, **options), run), run

    return publish


def digest(training) -> str:
    return training.digest()


def test_towers_learn_what_texts_and_pictures_say(root, work):
    training = tiny_posts.fitted(root, work, epochs=6, head_lr=0.01)
    assert training.history[-1][1]["val/macro_f1"] > 0.9
    assert training.history[-1][1]["L_total"] < 0.5 * training.history[0][1]["L_total"]


def test_both_learning_rates_are_recorded(root, work):
    training = tiny_posts.fitted(root, work, epochs=4, head_lr=0.01, use_cosine=True, early_stop=0)
    rates = [metrics["head_lr"] for _, metrics in training.history]
    assert rates[0] == pytest.approx(0.01) and rates == sorted(rates, reverse=True) and len(set(rates)) == 4
    ratio = training.config.head_lr / training.config.lr
    assert rates == pytest.approx([metrics["lr"] * ratio for _, metrics in training.history])


def test_a_stopped_training_continues_to_the_bit(root, work):
    options = {"epochs": 4, "use_cosine": True, "warmup_ratio": 0.2, "word_dropout": 0.2, "dropout": 0.3, "logit_adjustment": True}
    whole = tiny_posts.fitted(root, work / "whole", **options)
    tiny_posts.fitted(root, work / "parts", stop_after=2, **options)
    rest = tiny_posts.fitted(root, work / "parts", **options)
    assert rest.epoch == 2 and digest(rest) == digest(whole)
    told = [{k: v for k, v in metrics.items() if not k.startswith("time/")} for _, metrics in rest.history]
    assert told == [{k: v for k, v in metrics.items() if not k.startswith("time/")} for _, metrics in whole.history]


def test_resuming_across_the_unlocking_of_pretrained_towers_is_exact(root, work, tmp_path):
    weights = small_weights(tmp_path)
    options = {"epochs": 3, "freeze_epochs": 1, "image_weights": weights, "lr": 0.001}
    whole = tiny_posts.fitted(root, work / "whole", **options)
    tiny_posts.fitted(root, work / "parts", stop_after=1, **options)
    first = states.load_checkpoint(work / "parts" / "checkpoints" / "epoch_0001.safetensors")
    assert not any(name.startswith("visual.") for name in first.model), "an unchanged tower is referenced by its digest"
    rest = tiny_posts.fitted(root, work / "parts", **options)
    assert rest.epoch == 1 and digest(rest) == digest(whole)


def small_weights(folder) -> str:
    from safetensors.torch import save_file

    from core.models import small

    path = folder / "small.safetensors"
    save_file({name: value.contiguous() for name, value in small.create(7).state_dict().items()}, path)
    return str(path)


def test_frozen_towers_wait_and_then_learn_at_their_own_rate(root, work, tmp_path):
    weights = small_weights(tmp_path)
    frozen = tiny_posts.fitted(root, work / "a", epochs=2, freeze_epochs=2, image_weights=weights)
    before = tiny_posts.fitted(root, work / "b", epochs=2, freeze_epochs=1, image_weights=weights, lr=0.003)
    started = materials.build_net(tiny_posts.config(root, image_weights=weights)).visual.digest()
    assert frozen.net.visual.digest() == started != before.net.visual.digest()
    scales = {group["name"]: group["lr_scale"] for group in before.task.optimizer.param_groups}
    assert scales["head"] == pytest.approx(0.001 / 0.003) and any(n.startswith("visual") and s == 1 for n, s in scales.items())


def test_the_best_epoch_may_lie_before_the_towers_changed(root, work, tmp_path, monkeypatch):
    scores = iter([0.9, 0.1, 0.1])
    real = optimize.evaluate.metrics_of
    monkeypatch.setattr(optimize.evaluate, "metrics_of", lambda *a: real(*a) | {"macro_f1": next(scores)})
    training = tiny_posts.fitted(root, work, epochs=3, freeze_epochs=1, image_weights=small_weights(tmp_path), lr=0.01)
    started = training.facts["towers"]["visual"]
    assert training.net.visual.digest() != started
    training.restore_best()
    assert training.net.visual.digest() == started


def test_a_whole_clip_gives_both_towers_their_weights(root, tmp_path):
    from safetensors.torch import save_file

    made = tiny_posts.config(root, image_encoder_name="clip:small-32x1", seed=5)
    source = materials.build_net(made)
    state = {f"{side}.{name}": value.clone() for side, tower in source.towers.items() for name, value in tower.state_dict().items()}
    save_file(state, tmp_path / "clip.safetensors")
    one = dataclasses.replace(made, seed=1, weights=str(tmp_path / "clip.safetensors"))
    assert {side: tower.digest() for side, tower in materials.build_net(one).towers.items()} == {
        side: tower.digest() for side, tower in source.towers.items()
    }
    assert materials.is_pretrained(one, "image") and materials.is_pretrained(one, "text")
    assert not materials.is_pretrained(made, "image") and not materials.is_pretrained(made, "text")


def test_names_and_tags_reach_the_builder(monkeypatch):
    asked = {}
    monkeypatch.setattr(materials.clip, "build_towers", lambda **given: asked.update(given))
    with pytest.raises(AttributeError):
        materials.build_net(OptimizeClipConfig())
    assert asked["image_encoder_name"] == asked["text_encoder_name"] == "openai/clip-vit-base-patch32"
    with pytest.raises(AttributeError):
        materials.build_net(OptimizeClipConfig(model_name="ViT-B-32", image_pretrained="laion2b_e16", text_pretrained="openai"))
    assert (asked["image_pretrained"], asked["text_pretrained"], asked["text_encoder_name"]) == ("laion2b_e16", "openai", "ViT-B-32")
    assert materials.is_pretrained(OptimizeClipConfig(), "text")
    assert materials.build_arguments(OptimizeClipConfig())["text_encoder_name"] == "clip:ViT-B-32-quickgelu"


def test_mixed_precision_is_used_where_it_is_fast(root, work, monkeypatch):
    plain = tiny_posts.fitted(root, work / "a")
    monkeypatch.setattr(optimize.precision, "has_bf16", lambda _device: True)
    mixed = tiny_posts.fitted(root, work / "b", use_amp=True)
    assert mixed.m.number_format == "bf16" and digest(mixed) != digest(plain)


def test_features_of_locked_towers_are_computed_once(root, work, monkeypatch):
    first = tiny_posts.fitted(root, work / "a", lock_image=True)
    assert first.inputs["train"].image.shape[:2] == (36, 2) and first.inputs["val"].image.shape[:2] == (12, 1)
    monkeypatch.setattr(features, "_memory", {})
    monkeypatch.setattr(features, "embed", lambda *_: pytest.fail("computed again"))
    again = tiny_posts.fitted(root, work / "b", lock_image=True, head_variant="gated")
    assert torch.equal(first.inputs["train"].image, again.inputs["train"].image)


def test_a_fold_finds_the_features_of_all_posts_and_adds_what_they_lack(root, work, monkeypatch):
    made = tiny_posts.config(root, lock_image=True)
    m, net = materials.gather(made, tiny_posts.parts(root)), materials.build_net(made).eval()
    computed, real = [], features.pixels_of
    monkeypatch.setattr(features, "pixels_of", lambda posts, *how: computed.append(len(posts)) or real(posts, *how))
    rows, everything = m.rows, m.image_features(net, "train")
    for part, posts, new in (
        ("a fold", rows["train"].subset(range(3, 20)), []),
        ("others too", rows["val"], [12]),
        ("again", rows["val"], []),
    ):
        monkeypatch.setattr(features, "_memory", {})
        computed.clear()
        m.rows = {part: posts}
        found = m.image_features(net, part)
        assert computed == new
        if part == "a fold":
            assert np.array_equal(found, everything[3:20])
    for path in (work.parent / "cache" / "embeddings").glob("*.safetensors"):
        path.unlink()
    monkeypatch.setattr(features, "_memory", {})
    assert np.array_equal(m.image_features(net, "again"), found) and computed == [12]


def test_features_of_other_pixels_are_computed_anew(root, work, monkeypatch):
    made = tiny_posts.config(root, lock_image=True)
    m, net = materials.gather(made, tiny_posts.parts(root)), materials.build_net(made).eval()

    def found(view=0):
        monkeypatch.setattr(features, "_memory", {})
        return m.image_features(net, "val", view)

    plain, varied = found(), found(view=1)
    other = {"mean": (0.1, 0.2, 0.3), "std": (0.9, 0.5, 0.7)}
    for name, value in other.items():
        with monkeypatch.context() as patch:
            patch.setattr(net, "reading", dataclasses.replace(net.reading, **{name: value}))
            assert not np.array_equal(found(), plain)
    with monkeypatch.context() as patch:
        patch.setattr(features, "crop", lambda images, size: images[:, :, :size, :size].contiguous())
        assert not np.array_equal(found(), plain)
    with monkeypatch.context() as patch:
        patch.setattr(features, "augmented", lambda pixels, seed, key, variant: 255 - pixels)
        assert not np.array_equal(found(view=1), varied) and np.array_equal(found(), plain)
    assert np.array_equal(found(), plain)


def test_cached_features_are_what_the_network_gives(root, work):
    locked = tiny_posts.fitted(root, work / "a", lock_image=True, lock_text=True)
    predictor = locked.predictor()
    rows = locked.m.rows["val"]
    direct = predictor.probabilities(rows.texts, model.images_of(rows, 16))
    np.testing.assert_allclose(direct, locked.probabilities("val"), atol=1e-5)


CHANGES = [
    {"modality": "image"},
    {"modality": "text"},
    {"head_variant": "ln"},
    {"head_variant": "mlp"},
    {"head_variant": "gated"},
    {"image_encoder_name": "clip:small-32x1"},
    {"text_encoder_name": "clip:small-64x1"},
    {"image_size": 18},
    {"embed_dim": 24},
    {"context_length": 6},
    {"dropout": 0.5},
    {"epochs": 1},
    {"lock_image": True},
    {"lock_text": True},
    {"batch_size": 12},
    {"head_lr": 0.002},
    {"weight_decay": 0.1},
    {"use_cosine": True},
    {"warmup_ratio": 0.5},
    {"clip_norm": 0.01},
    {"seed": 2},
    {"loss": "focal"},
    {"loss": "cb", "beta": 0.99},
    {"loss": "combo"},
    {"cleaning": "standard"},
    {"augment": False},
    {"word_dropout": 0.4},
    {"logit_adjustment": True},
]


@pytest.fixture(scope="module")
def plain(root, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAXON_CACHE", str(tmp_path_factory.mktemp("cache")))
        return digest(tiny_posts.fitted(root, tmp_path_factory.mktemp("plain")))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items()))
def test_an_option_changes_the_result(root, work, plain, change):
    assert digest(tiny_posts.fitted(root, work, **change)) != plain


PAIRS = [
    ({"loss": "focal"}, {"gamma": 0.5}),
    ({"loss": "combo"}, {"beta": 0.5}),
    ({"lock_image": True}, {"cached_views": 3}),
    ({"lock_image": True, "cached_views": 2}, {"augment": False}),
    ({"image_weights": "small", "freeze_epochs": 0}, {"freeze_epochs": 1}),
    ({"image_weights": "small", "freeze_epochs": 0}, {"lr": 0.001}),
    ({"image_weights": "small", "freeze_epochs": 0, "lr": 0.001}, {"layer_decay": 0.5}),
    ({"image_weights": "small"}, {"image_weights": ""}),
]


@pytest.mark.parametrize(("before", "change"), PAIRS, ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items()))
def test_an_option_changes_the_result_where_it_applies(root, work, tmp_path, before, change):
    weights = small_weights(tmp_path)
    before, after = ({k: weights if v == "small" else v for k, v in options.items()} for options in (before, before | change))
    assert digest(tiny_posts.fitted(root, work / "a", **before)) != digest(tiny_posts.fitted(root, work / "b", **after))


def test_lora_trains_little_of_a_pretrained_text_tower_and_is_merged_for_serving(root, work, tmp_path):
    from safetensors.torch import save_file

    tower = materials.build_net(tiny_posts.config(root, seed=9)).text.body
    save_file({name: value.contiguous() for name, value in tower.state_dict().items()}, tmp_path / "text.safetensors")
    options = {"text_weights": str(tmp_path / "text.safetensors"), "lock_image": True, "freeze_epochs": 1, "lr": 0.01}
    training = tiny_posts.fitted(root, work / "lora", lora_rank=2, **options)
    saved = states.load_checkpoint(work / "lora" / "checkpoints" / "epoch_0002.safetensors").model
    assert all(".parametrizations." in name for name in saved if name.startswith("text.")) and any(n.startswith("text.") for n in saved)
    before = training.probabilities("val")
    rows = training.m.rows["val"]
    np.testing.assert_allclose(training.predictor().probabilities(rows.texts, model.images_of(rows, 16)), before, atol=1e-5)
    with pytest.raises(UserError, match="lora_rank = 2, but no pretrained tower trains"):
        tiny_posts.fitted(root, work / "none", lora_rank=2)


def test_early_stopping_and_the_choice_of_the_best_epoch(root, work, monkeypatch):
    scores = iter([0.3, 0.5, 0.4, 0.4, 0.4, 0.4])
    real = optimize.evaluate.metrics_of
    monkeypatch.setattr(optimize.evaluate, "metrics_of", lambda *a: real(*a) | {"macro_f1": next(scores)})
    training = tiny_posts.fitted(root, work, epochs=6, early_stop=2)
    assert [epoch for epoch, _ in training.history] == [1, 2, 3, 4] and training.facts["best"] == {"epoch": 2, "score": 0.5}


@pytest.mark.parametrize("options", [{"save_best_thresh": 0.9}, {"select_by": "last"}], ids=["below the threshold", "last"])
@pytest.mark.parametrize(("scores", "epochs"), [([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 6), ([0.3, 0.5, 0.4, 0.4, 0.6, 0.7], 4)])
def test_early_stopping_goes_by_scores_not_by_kept_checkpoints(root, work, monkeypatch, options, scores, epochs):
    given, real = iter(scores), optimize.evaluate.metrics_of
    monkeypatch.setattr(optimize.evaluate, "metrics_of", lambda *a: real(*a) | {"macro_f1": next(given)})
    training = tiny_posts.fitted(root, work, epochs=6, early_stop=2, **options)
    assert len(training.history) == epochs and training.facts["best"]["epoch"] == (epochs if "select_by" in options else 0)


def test_select_by_and_the_threshold_choose_the_checkpoint(root, work):
    last = tiny_posts.fitted(root, work / "a", epochs=3, select_by="last")
    assert last.facts["best"]["epoch"] == 3
    accuracy = tiny_posts.fitted(root, work / "b", epochs=2, select_by="accuracy")
    assert accuracy.facts["best"]["score"] == max(metrics["val/accuracy"] for _, metrics in accuracy.history)
    none = tiny_posts.fitted(root, work / "c", epochs=2, save_best_thresh=2.0)
    assert none.facts["best"]["epoch"] == 0


def test_save_freq_keeps_checkpoints_and_log_interval_logs_steps(root, work):
    training = tiny_posts.fitted(root, work, epochs=4, save_freq=1, log_interval=2)
    assert len(list((work / "checkpoints").glob("epoch_*.safetensors"))) == 4
    assert sum("step/L_total" in values for values, _ in training.run.history) == 4 * (5 // 2)


@pytest.mark.parametrize(("keep", "kept"), [("needed", "1 3*"), ("all", "1* 3*")])
def test_the_best_epoch_s_checkpoint_holds_its_weights_only_unless_all_are_kept(published, monkeypatch, keep, kept):
    monkeypatch.setattr(optimize.PostsTraining, "score", lambda self, metrics, epoch: 1.0 / epoch)
    _summary, run = published(epochs=3, lock_image=True, keep_checkpoints=keep)
    assert kept_in(run.place) == kept


def test_a_checkpoint_of_another_head_is_refused_by_name(root, work, tmp_path):
    tiny_posts.fitted(root, work / "base")
    path = str(work / "base" / "checkpoints")
    with pytest.raises(UserError, match=r"another head_variant \(base instead of ln\)"):
        tiny_posts.fitted(root, work / "ln", head_variant="ln", epochs=3, resume=path)
    more = tiny_posts.fitted(root, work / "more", epochs=3, resume=path)
    assert more.epoch == 2 and more.history[-1][0] == 3


def test_the_published_run_is_opened_by_uri_folder_file_and_checkpoint(published, root, work):
    summary, run = published(epochs=2, lock_image=True)
    rows = tiny_posts.parts(root)["test"]
    names = run.files()
    for name in ("predictor/model.json", "predictor/model.safetensors", "evaluation/test/predictions.csv", "config.json", "manifest.json"):
        assert name in names
    images = model.images_of(rows, 16)
    found = [
        model.open_predictor(str(path)).probabilities(rows.texts, images)
        for path in (
            run.place,
            run.place / "predictor",
            run.place / "predictor" / "model.safetensors",
            run.place / summary["best_checkpoint"],
        )
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5)
    assert (found[0].argmax(1) == rows.labels).mean() == pytest.approx(summary["best_metrics"]["best/test/accuracy"])
    low, high = (summary["best_metrics"][f"best/test/macro_f1_{end}"] for end in ("low", "high"))
    assert low <= summary["best_metrics"]["best/test/macro_f1"] <= high and "macro f1" in run.noted


def test_a_finished_training_registers_later_without_an_epoch_of_training(published, root, work, monkeypatch):
    first, run = published(epochs=2, lock_image=True)
    made = tiny_posts.config(root, epochs=2, lock_image=True, register=True)
    finished = Finished("first", run.place, {}, first)
    monkeypatch.setattr(execute.stages, "find_finished", lambda key: finished)
    key = optimize.key_of(made)
    assert execute.find(key) is finished and execute.find(key, registers=True) is None
    registered = []
    monkeypatch.setattr(publish.register, "register", lambda run, folder, *_: registered.append(folder.name) or "models:/x/1")
    monkeypatch.setattr(optimize.PostsTask, "prepare", lambda *_: pytest.fail("trained again"))
    second, _ = published(epochs=2, lock_image=True, register=True)
    assert registered == ["predictor"] and second["weights_digest"] == first["weights_digest"]
    assert second | {"model": ""} == first and second["model"] == "models:/x/1"
    finished.summary["model"] = "models:/x/1"
    assert execute.find(key, registers=True) is finished


def test_weights_of_another_head_are_never_loaded_loosely(published, work):
    _, run = published(epochs=1, lock_image=True)
    about = json.loads((run.place / "predictor" / "model.json").read_text())
    (run.place / "predictor" / "model.json").write_text(json.dumps(about | {"head_variant": "ln"}))
    with pytest.raises(UserError, match=r"this model is damaged: model\.json is not the file that was registered"):
        model.open_predictor(str(run.place))
    (run.place / "predictor" / served.FACTS).unlink()  # as a folder made by hand
    with pytest.raises(UserError, match="has the weights of head=base, modalities=both, not of head=ln"):
        model.open_predictor(str(run.place))


def test_the_reference_line_is_published_the_same_way(published, root, work):
    summary, run = published(encoder="tfidf", image_weights="", min_count=1)
    rows = tiny_posts.parts(root)["test"]
    predictor = model.open_predictor(str(run.place))
    probabilities = predictor.probabilities(rows.texts, model.images_of(rows, 16))
    assert summary["best_metrics"]["best/test/accuracy"] == (probabilities.argmax(1) == rows.labels).mean() == 1.0
    assert not list(run.place.rglob("*.pkl")) and summary["best"]["score"] == summary["best_metrics"]["best/val/macro_f1"]


TFIDF = [
    {"word_ngrams": 1},
    {"char_ngrams": 0},
    {"min_count": 3},
    {"regularisation": 0.1},
    {"image_regularisation": 0.01},
    {"image_share": 0.9},
    {"cleaning": "standard"},
    {"modality": "text"},
    {"modality": "image"},
    {"image_size": 18},
]


@pytest.mark.parametrize("change", TFIDF, ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items()))
def test_an_option_changes_the_reference_line(root, work, change):
    rows = tiny_posts.parts(root)

    def found(**options):
        made = tiny_posts.config(root, encoder="tfidf", min_count=options.pop("min_count", 1), **options)
        predictor = model.train_on(made, rows["train"], rows["val"], work)
        return predictor.probabilities(rows["val"].texts, model.images_of(rows["val"], made.image_size) if predictor.needs_images else None)

    assert not np.allclose(found(), found(**change), atol=1e-9)


def test_train_on_trains_on_the_given_rows_only(root, work):
    rows, made = tiny_posts.parts(root), tiny_posts.config(root, data_dir="", head_lr=0.01, epochs=3)
    predictor = model.train_on(made, rows["train"], rows["val"], work / "fold")
    probabilities = predictor.probabilities(rows["test"].texts, model.images_of(rows["test"], 16))
    assert probabilities.shape == (12, 3) and probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(1), 1)
    again = model.train_on(made, rows["train"], rows["val"], work / "again")
    np.testing.assert_array_equal(again.probabilities(rows["test"].texts, model.images_of(rows["test"], 16)), probabilities)
    few = rows["train"].subset(np.flatnonzero(rows["train"].labels != 1))
    with pytest.raises(UserError, match="class neutral has no training post"):
        model.train_on(made, few, rows["val"], work / "few")


def test_a_class_without_validation_posts_is_not_scored(root, work):
    rows = tiny_posts.parts(root)
    val = rows["val"].subset(np.flatnonzero(rows["val"].labels != 1))
    predictor = model.train_on(tiny_posts.config(root), rows["train"], val, work)
    assert predictor.class_names == ("negative", "neutral", "positive")


def test_long_texts_are_counted_and_announced(root, work, published, capsys):
    _, run = published(context_length=6, epochs=1)
    told = {name: value for values, _ in run.history for name, value in values.items()}
    assert told["data/train_texts_cut"] == 36 and "texts are longer than 6 tokens" in capsys.readouterr().err


def test_a_held_out_post_in_training_is_refused(root, work, tmp_path):
    leaky = tmp_path / "leaky.csv"
    shutil.copy(root / "train.csv", leaky)
    line = (root / "test.csv").read_text().splitlines()[1].split(",")
    with open(leaky, "a") as file:
        file.write(f"999,another text,{line[2]},negative\n")
    with pytest.raises(UserError, match=f"1 test posts are in the training posts too, e.g. guid {line[0]} \\(same image as 999\\)"):
        tiny_posts.fitted(root, work, train_csv=str(leaky))


def test_test_posts_may_not_choose_the_epoch(root, tmp_path):
    with pytest.raises(UserError, match=r"12 test posts are in the validation posts too, e.g. guid (\d+) \(same guid as \1\)"):
        materials.load_rows(tiny_posts.config(root, val_csv=str(root / "test.csv")))
    shared = tmp_path / "shared.csv"
    lines, last = (root / "val.csv").read_text().splitlines(), (root / "test.csv").read_text().splitlines()[1].split(",")
    shared.write_text("\n".join([*lines, f"999,another text,{last[2]},negative"]) + "\n")
    with pytest.raises(UserError, match=rf"1 test posts are in the validation posts too, e.g. guid {last[0]} \(same image as 999\)"):
        materials.load_rows(tiny_posts.config(root, val_csv=str(shared)))


@pytest.mark.parametrize(("part", "held_out"), [("train", "val"), ("train", "test"), ("val", "test")])
def test_a_row_made_from_a_held_out_post_is_refused_though_nothing_looks_alike(root, tmp_path, part, held_out):
    rows = tiny_posts.parts(root)
    Image.new("RGB", (20, 26), (1, 2, 3)).save(tmp_path / "new.png")
    table = tmp_path / "made.csv"
    lines = [f"{line},{'source_guid' if i == 0 else ''}" for i, line in enumerate((root / f"{part}.csv").read_text().splitlines())]
    source = rows[held_out].guids[0]
    table.write_text("\n".join([*lines, f"999,another text,new.png,negative, {source}"]) + "\n")
    with pytest.raises(UserError, match=f"{part}_csv holds rows that were made from {held_out} posts {source}; .*remove"):
        materials.load_rows(tiny_posts.config(root, **{f"{part}_csv": str(table)}))
    table.write_text("\n".join([*lines, f"999,another text,new.png,negative,{rows[part].guids[0]}"]) + "\n")
    assert len(materials.load_rows(tiny_posts.config(root, **{f"{part}_csv": str(table)}))[part]) == len(rows[part]) + 1


def test_places_are_not_in_the_key_but_their_content_is(root, work, tmp_path):
    one = tiny_posts.config(root)
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    assert optimize.key_of(one) == optimize.key_of(dataclasses.replace(one, data_dir=str(moved), data_root=str(moved), num_workers=3))
    (moved / "train.csv").write_text((root / "train.csv").read_text().replace("sad", "glum"))
    assert optimize.key_of(one) != optimize.key_of(dataclasses.replace(one, data_dir=str(moved), data_root=str(moved)))
    assert optimize.key_of(one) != optimize.key_of(dataclasses.replace(one, head_lr=0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs = 0; it must be larger than 0"),
        ({"beta": 1.0}, "beta = 1.0 must be at least 0 and below 1"),
        ({"layer_decay": 0.0}, "layer_decay = 0.0 must be above 0"),
        ({"warmup_ratio": 1.5}, "outside 0..1"),
        ({"word_dropout": 1.0}, "hides every word"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
        ({"modality": "image", "head_variant": "gated"}, "needs both"),
        ({"cleaning": "standart"}, "did you mean 'standard'"),
        ({"encoder": "tfidf", "resume": "x"}, "resume is of no use"),
        ({"char_ngrams": 1}, "start at 2"),
        ({"gamma": -1.0}, "gamma = -1.0; it must be 0 or more"),
        ({"image_share": 2.0}, "outside 0..1"),
        ({"seed": 2**32}, "too large"),
    ],
)
def test_mistakes_are_found_before_any_work(options, message):
    with pytest.raises(UserError, match=message) as error:
        checks.check_training(OptimizeClipConfig(**options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"encoder": "tfidf"}, ""),
        ({"min_count": 1, "image_share": 0.2}, "encoder = towers makes no use of min_count = 1, image_share = 0.2"),
        ({"encoder": "tfidf", "select_by": "accuracy", "cleaning": "raw", "min_count": 1, "image_size": 64, "seed": 2}, ""),
        *(
            ({"encoder": "tfidf"} | change, f"encoder = tfidf makes no use of {next(iter(change))} = {next(iter(change.values()))}")
            for change in (
                *({"logit_adjustment": True}, {"loss": "focal"}, {"head_variant": "ln"}, {"lora_rank": 4}, {"epochs": 3}),
                *({"head_lr": 0.1}, {"early_stop": 1}, {"augment": False}, {"context_length": 9}, {"save_best_thresh": 0.5}),
            )
        ),
    ],
)
def test_options_that_do_nothing_are_announced(root, tmp_path, work, monkeypatch, capsys, options, line):
    made = OptimizeClipConfig(data_dir=str(root), data_root=str(root), gpu="cpu", **options)
    monkeypatch.setattr(optimize, "begin", lambda config: None)
    monkeypatch.setattr(optimize.execute, "command", lambda job, run: {})
    optimize.run(made, MemoryRun(tmp_path))
    assert capsys.readouterr().err == (f"taxon: {line}\n" if line else "")


def test_missing_posts_are_named(root, tmp_path):
    with pytest.raises(UserError, match="no train posts: give data_dir"):
        materials.load_rows(OptimizeClipConfig(data_root=str(root)))
    with pytest.raises(UserError, match="no val posts"):
        materials.load_rows(OptimizeClipConfig(data_root=str(root), train_csv=str(root / "train.csv")))
    with pytest.raises(UserError, match="has no label at all"):
        materials.load_rows(OptimizeClipConfig(data_root=str(root), train_csv=str(root / "predict.csv")))
    with pytest.raises(UserError, match="optimize_clip has no option 'head_varient'; did you mean 'head_variant'"):
        configuration.parse(OptimizeClipConfig, ["--head_varient=ln"], "optimize_clip")


def test_serving_takes_base64_and_paths_and_loads_without_the_training_data(published, root, work):
    import pandas

    _, run = published(epochs=2, lock_image=True)
    served = serving._load_pyfunc(str(run.place / "predictor"))
    rows = tiny_posts.parts(root)["test"]
    answers = served.predict(pandas.DataFrame({"image": [str(p) for p in rows.image_paths], "text": rows.texts}))
    direct = served.predictor.probabilities(rows.texts, model.images_of(rows, 16))
    assert [answer["class"] for answer in answers] == [rows.class_names[c] for c in direct.argmax(1)]
    assert [answer["confidence"] for answer in answers] == pytest.approx(direct.max(1).tolist(), abs=1e-6)
