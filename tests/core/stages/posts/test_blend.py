"""Blends of towers and n-grams: no weight comes from what is held out, what was scored is what is served, and a crash costs little."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from core.errors import UserError
from core.evaluation.scorer import scorer
from core.models import ngrams
from core.models.blend import Blend
from core.serving import posts as serving
from core.stages.posts import blend, checks, materials, model, optimize
from core.stages.posts.config import OptimizeClipConfig
from tests.core.stages.posts import tiny_posts
from tests.memory_run import MemoryRun

pytestmark = pytest.mark.usefixtures("undrawn")

OPTIONS = {"head_variant": "blend", "lock_image": True, "min_count": 1, "head_lr": 0.01, "cached_views": 0, "epochs": 2}


def published(root, place, **options):
    run = MemoryRun(place)
    run.place.mkdir(parents=True)
    return optimize.train(tiny_posts.config(root, **OPTIONS | options), run), run


@pytest.mark.parametrize(
    ("modality", "members"), [("both", ["towers", "ngrams", "image"]), ("text", ["towers", "ngrams"])], ids=["both", "text"]
)
def test_what_was_scored_is_what_is_served(root, work, modality, members):
    summary, run = published(root, work, modality=modality)
    told = pandas.read_csv(run.place / "evaluation" / "test" / "predictions.csv")
    served, rows = serving._load_pyfunc(str(run.place / "predictor")), tiny_posts.parts(root)["test"]
    answers = served.predict(pandas.DataFrame({"image": [str(path) for path in rows.image_paths], "text": rows.texts}))
    assert [answer["class"] for answer in answers] == told["predicted"].tolist()
    np.testing.assert_allclose([answer["confidence"] for answer in answers], told["confidence"], atol=1e-5)
    metrics = summary["best_metrics"]
    assert [name.removeprefix("blend/weight_") for name in metrics if name.startswith("blend/weight_")] == members
    assert {f"oof/{name}_macro_f1" for name in (*members, "blend")} <= metrics.keys()
    assert summary["best"] == {"epoch": 1, "score": metrics["best/val/macro_f1"]} and metrics["best/test/accuracy"] > 0.6
    opened = model.open_predictor(str(run.place))
    assert opened.lineage == served.predictor.lineage and opened.lineage.trained and opened.lineage.chosen
    assert not list(run.place.glob("members*"))


def test_weights_know_nothing_of_the_posts_that_they_are_judged_on(root, work, monkeypatch):
    given, real = [], Blend.fit.__func__
    monkeypatch.setattr(Blend, "fit", classmethod(lambda cls, *parts: given.append(parts) or real(cls, *parts)))
    trained, fitted = [], []
    towers, plain = optimize.trained, ngrams.NgramClassifier.fit.__func__
    monkeypatch.setattr(optimize, "trained", lambda config, rows, folder: trained.append((config, rows)) or towers(config, rows, folder))
    monkeypatch.setattr(ngrams.NgramClassifier, "fit", classmethod(lambda cls, *parts: fitted.append(list(parts[1])) or plain(cls, *parts)))
    made, rows = tiny_posts.config(root, **OPTIONS), tiny_posts.parts(root)
    m = materials.gather(made, rows)
    blend.fit(made, m, work, optimize.trained)
    ((probabilities, labels, _score),) = given
    assert probabilities.shape == (3, 36, 3) and np.isfinite(probabilities).all() and labels.tolist() == rows["train"].truth.tolist()
    (_config, everything), *of_folds = trained
    assert everything is m.rows and {config.head_variant for config, _ in trained} == {"base"} and len(of_folds) == blend.FOLDS
    for (_, parts), texts in zip(of_folds, fitted[:-1], strict=True):
        assert not set(parts["train"].guids) & set(parts["test"].guids) and parts["val"] is m.rows["val"]
        assert set(parts["train"].guids) | set(parts["test"].guids) == set(rows["train"].guids)
        assert len(texts) == len(parts["train"])
    unseen = sorted(guid for _, parts in of_folds for guid in parts["test"].guids)
    assert unseen == sorted(rows["train"].guids) and fitted[-1] == m.texts["train"]


def test_a_variant_is_in_the_fold_of_the_post_that_it_was_made_from(root, work, tmp_path):
    from PIL import Image

    lines, first = (root / "train.csv").read_text().splitlines(), tiny_posts.parts(root)["train"].guids[0]
    for i in range(3):
        Image.new("RGB", (20, 26), (80 * i, 2, 3)).save(tmp_path / f"{i}.png")
    rows = [f"{line},{'source_guid' if i == 0 else ''}" for i, line in enumerate(lines)]
    rows += [f"90{i},variant number {i},{tmp_path}/{i}.png,negative,{first}" for i in range(3)]
    (root / "train_aug.csv").write_text("\n".join(rows) + "\n")
    made = tiny_posts.config(root, **OPTIONS, train_csv=str(root / "train_aug.csv"), data_root=str(tmp_path))
    posts = materials.load_rows(tiny_posts.config(root, **OPTIONS))["train"]
    assert len(posts) == 36
    m = materials.gather(made, materials.load_rows(made))
    found = dict(zip(m.rows["train"].guids, blend._folds(made, m).tolist(), strict=True))
    assert len({found[guid] for guid in (first, "900", "901", "902")}) == 1


def test_a_crash_costs_no_finished_fold(root, work, tmp_path):
    made, rows = tiny_posts.config(root, **OPTIONS), tiny_posts.parts(root)
    m = materials.gather(made, rows)
    whole = blend.fit(made, m, tmp_path / "a", optimize.trained)
    calls: list[str] = []

    def dying(config, rows, folder):
        calls.append(folder.name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return optimize.trained(config, rows, folder)

    with pytest.raises(KeyboardInterrupt):
        blend.fit(made, m, tmp_path / "b", dying)
    epochs: list[int] = []

    def going_on(config, rows, folder):
        training = optimize.trained(config, rows, folder)
        epochs.append(training.epoch)
        return training

    again = blend.fit(made, m, tmp_path / "b", going_on)
    assert epochs == [2, 2, 2, 0, 0, 0] and calls == ["towers", "fold_0", "fold_1", "fold_2"]
    assert again.metrics == whole.metrics
    for part, found in whole.probabilities.items():
        np.testing.assert_array_equal(again.probabilities[part], found)


def test_others_train_on_given_rows_by_a_blend_too(root, work):
    rows = tiny_posts.parts(root)
    made = tiny_posts.config(root, data_dir="", **OPTIONS)
    found = model.train_on(made, rows["train"], rows["val"], work)
    assert found.probabilities(rows["test"].texts, model.pictures(found, rows["test"])).shape == (12, 3)
    assert (
        scorer("accuracy", 3, np.ones(3))(
            rows["test"].truth, found.probabilities(rows["test"].texts, model.pictures(found, rows["test"])).argmax(1)
        )
        > 0.6
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"modality": "image"}, "head_variant = blend joins towers and n-grams, but modality = image has no text; take another head"),
        ({"resume": "x"}, "resume is of no use with head_variant = blend"),
    ],
)
def test_what_no_blend_can_be_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        checks.check_training(OptimizeClipConfig(head_variant="blend", **options))


def test_the_options_of_n_grams_act_beside_towers(root, work):
    made = [tiny_posts.config(root, **OPTIONS | change) for change in ({}, {"word_ngrams": 1}, {"image_regularisation": 0.1})]
    assert len({optimize.key_of(one) for one in made}) == 3 and checks.idle_options(made[1]) == []
    assert optimize.key_of(made[0]) == optimize.key_of(tiny_posts.config(root, **OPTIONS, image_share=0.1))


def test_a_class_of_one_post_is_refused_in_one_line(root, work, tmp_path):
    rows = tiny_posts.parts(root)
    rare = np.flatnonzero(rows["train"].truth == 1)
    few = rows["train"].subset(np.setdiff1d(np.arange(36), rare[1:]))
    made = tiny_posts.config(root, **OPTIONS)
    m = materials.gather(made, rows | {"train": few})
    with pytest.raises(UserError, match=r"head_variant = blend: class neutral has 1 groups of posts .*; take another head_variant"):
        blend.fit(made, m, tmp_path / "w", optimize.trained)
