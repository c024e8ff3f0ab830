"""mine_bad_cases: only training posts, each predicted by a classifier that never saw it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import fields_of
from core.data import bad_cases, post_splits
from core.data.posts import Posts
from core.lineage import Lineage, flat
from core.stages.posts import mining, model, results
from core.stages.posts.config_tools import MineBadCasesConfig
from tests.core.stages.posts import hardening
from tests.core.stages.tiny import refused


def mined(workplace, **options):
    run = workplace.run()
    return mining.run(MineBadCasesConfig(**workplace.data(folds=3) | options), run), run


def test_bad_cases_are_the_misled_training_posts(workplace, capsys):
    report, run = mined(workplace)
    table = hardening.rows(run.place / "bad_cases" / "bad_cases.csv")
    assert list(table[0]) == ["guid", "true_label", "pred_label", "confidence", "text_path", "image_path", "reason"]
    assert {row["guid"] for row in table} == {str(i + 1) for i in hardening.MISLED}
    assert all(row["reason"] == "wrong" and row["true_label"] != row["pred_label"] and row["confidence"] == "0.900000" for row in table)
    assert all(row["text_path"] == f"data/{row['guid']}.txt" and row["image_path"] == f"data/{row['guid']}.jpg" for row in table)
    assert report["bad_cases"] == report["wrong"] == 4 and report["posts"] == 36
    assert report["out_of_fold"]["accuracy"]["value"] == pytest.approx(32 / 36)
    stored = json.loads((run.place / "summary.json").read_text())
    assert stored["bad_cases"] == 4
    files = {path.name for path in (run.place / "bad_cases").iterdir()}
    assert files == {"bad_cases.csv", "bad_cases.png", "oof_predictions.csv", "oof_reliability.png", "report.json"}
    assert "4 bad cases: 4 wrong" in capsys.readouterr().out


def test_no_classifier_has_seen_what_it_is_asked(workplace):
    mined(workplace)
    val, test = hardening.part(workplace.root, "val"), hardening.part(workplace.root, "test")
    asked = [set(texts) for texts, _ in workplace.predictor.asked]
    assert len(workplace.trained) == len(asked) == 3
    for (_, train_rows, val_rows), texts in zip(workplace.trained, asked, strict=True):
        assert not texts & set(train_rows.texts) and val_rows.guids == val.guids
        assert not set(train_rows.guids) & (set(val.guids) | set(test.guids))
    assert sum(len(texts) for texts in asked) == 36 and not set().union(*asked) & (set(val.texts) | set(test.texts))


def test_a_given_model_that_has_seen_none_predicts_all_at_once(workplace, capsys):
    report, run = mined(workplace, model="runs:/one")
    assert not workplace.trained and [len(texts) for texts, _ in workplace.predictor.asked] == [36]
    assert report["bad_cases"] == 4 and report["model"] == "runs:/one" and report["folds"] == 0
    assert {row["guid"] for row in hardening.rows(run.place / "bad_cases" / "bad_cases.csv")} == {str(i + 1) for i in hardening.MISLED}
    assert {row["fold"] for row in hardening.rows(run.place / "bad_cases" / "oof_predictions.csv")} == {""}
    assert "36 training posts, by runs:/one: accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["trained", "seen", "chosen"])
def test_a_given_model_that_knows_a_post_is_refused(workplace, kind):
    known = results.items_of(hardening.part(workplace.root, "train").subset([3, 5]))
    workplace.predictor.lineage = Lineage(**{kind: flat(known)})
    said = refused(lambda: mined(workplace, model="runs:/one"))
    assert said.startswith("model = 'runs:/one' has learnt from 2 of the 36 training posts") and not workplace.predictor.asked
    workplace.predictor.lineage, workplace.predictor.class_names = Lineage(), ("bad", "good")
    assert "model = 'runs:/one' tells bad, good apart" in refused(lambda: mined(workplace, model="runs:/one"))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 2**31 - 1), st.integers(2, 4))
def test_folds_never_part_variants_of_one_source(seed, folds):
    rng = np.random.default_rng(seed)
    n = 60
    source = [str(i) for i in rng.integers(0, 25, n)]
    labels = np.array([int(s) % 3 for s in source], np.int64)
    posts = Fingerprintless(tuple(map(str, range(n))), tuple(f"text {i // 2}" for i in range(n)), ("x",) * n, labels)
    groups = len({int(s) for s in source})
    if min(np.bincount([g % 3 for g in {int(s) for s in source}], minlength=3)) < 8 or groups < 24:
        return
    try:
        found = mining.fold_of(posts, mining.groups_of(posts, source), folds, seed % 1000)
    except mining.UserError as error:
        assert "lower folds" in str(error)
        return
    for i in range(n):
        for j in range(i):
            if source[i] == source[j] or posts.texts[i] == posts.texts[j]:
                assert found[i] == found[j]


class Fingerprintless(Posts):
    """Posts whose pictures are like no other."""

    @property
    def fingerprints(self):
        from core.data.posts import Fingerprint

        return tuple(Fingerprint("", "") for _ in self.guids)


def test_unsure_predictions_are_bad_cases_too_and_wrong_ones_come_first(workplace):
    workplace.predictor.sure = 0.45
    report, run = mined(workplace, shown=0)
    reasons = [row["reason"] for row in hardening.rows(run.place / "bad_cases" / "bad_cases.csv")]
    assert reasons == ["wrong, low confidence"] * 4 + ["low confidence"] * 32 and report["only_low_confidence"] == 32
    assert not (run.place / "bad_cases" / "bad_cases.png").exists()
    assert mined(workplace, confidence_below=0.4)[0]["bad_cases"] == 4
    assert mined(workplace, confidence_below=0.0)[0]["only_low_confidence"] == 0


def test_a_training_row_of_a_held_out_part_is_refused(workplace):
    text = (workplace.root / "csv" / "test.csv").read_text()
    (workplace.root / "csv" / "train.csv").write_text(text)
    said = refused(lambda: mined(workplace))
    assert "holds test post 49 (same guid as 49)" in said and "more; bad cases are mined from training posts only" in said
    assert not workplace.trained


def test_a_row_made_from_a_held_out_post_is_refused(workplace):
    posts = hardening.part(workplace.root, "train")
    sources = [*posts.guids[:-1], "40"]
    post_splits.write_csv(workplace.root / "csv" / "train.csv", posts, workplace.root, {"source_guid": sources})
    assert "rows that were made from validation posts 40" in refused(lambda: mined(workplace))


def test_every_training_option_reaches_the_training(workplace):
    changed = {"epochs": 2, "head_variant": "ln", "loss": "focal", "cleaning": "raw", "encoder": "tfidf", "threads": 1, "seed": 4}
    mined(workplace, **changed)
    config = workplace.trained[0][0]
    assert {name: getattr(config, name) for name in changed} == changed and config.register is False
    own = {f.name for f in dataclasses.fields(MineBadCasesConfig)} - {f.name for f in dataclasses.fields(type(config))}
    assert own == {"folds", "model", "confidence_below", "shown", "output_dir"}
    assert all(doc for *_, doc in fields_of(MineBadCasesConfig))


def test_other_options_have_their_effect(workplace, tmp_path):
    mined(workplace, folds=4, output_dir=str(tmp_path / "out"))
    assert len(workplace.trained) == 4 and (tmp_path / "out" / "bad_cases.csv").exists()
    before = [set(rows.guids) for _, rows, _ in workplace.trained]
    workplace.trained.clear()
    mined(workplace, folds=4, seed=9)
    assert [set(rows.guids) for _, rows, _ in workplace.trained] != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "2 folds or more"),
        ({"folds": 13}, "has 12 groups of posts without common image or text, fewer than folds = 13; lower folds"),
        ({"confidence_below": 1.5}, "is no probability"),
        ({"shown": -1}, "give 0 or more"),
        ({"train_csv": "absent.csv"}, "train_csv = 'absent.csv' does not exist"),
        ({"weights": "outputs/head_ln/best.pt"}, "give the classifier that mines as model (a run of optimize_clip)"),
        ({"weights": "runs:/0123"}, "weights = 'runs:/0123' would be those of CLIP towers"),
    ],
)
def test_mistakes_are_one_line_before_any_training(workplace, options, message):
    assert message in refused(lambda: mined(workplace, **options))
    assert not workplace.trained


def test_what_was_written_reads_back(workplace):
    _, run = mined(workplace)
    cases = bad_cases.read(run.place / "bad_cases" / "bad_cases.csv", workplace.root)
    assert len(cases) == 4 and cases.posts.class_names == ("negative", "neutral", "positive")
    assert cases.posts.texts[0] == hardening.part(workplace.root, "train").texts[int(cases.posts.guids[0]) - 1]


def test_a_killed_mining_keeps_finished_folds_and_continues_the_one_in_work(workplace, monkeypatch):
    _, whole = mined(workplace)
    cache, plain, places = workplace.folder / "cache" / "work", model.train_on, []
    assert not list(cache.iterdir())
    workplace.trained.clear()

    def dies(*given):
        places.append(given[-1])
        if len(places) == 2:
            (given[-1] / "checkpoint").write_text("of an epoch")
            raise KeyboardInterrupt
        return plain(*given)

    monkeypatch.setattr(model, "train_on", dies)
    with pytest.raises(KeyboardInterrupt):
        mined(workplace)
    assert (places[1] / "checkpoint").is_file()
    _, again = mined(workplace)
    assert len(workplace.trained) == 3 and places[1] == places[2] and len(set(places)) == 3 and not list(cache.iterdir())
    for name in ("bad_cases.csv", "oof_predictions.csv", "report.json"):
        assert (again.place / "bad_cases" / name).read_bytes() == (whole.place / "bad_cases" / name).read_bytes()


@pytest.mark.parametrize("damage", [b"", b"no array", None])
def test_a_damaged_or_foreign_fold_is_done_again(workplace, monkeypatch, damage):
    plain, places = model.train_on, []

    def dies(*given):
        places.append(given[-1])
        if len(places) == 2:
            raise KeyboardInterrupt
        return plain(*given)

    monkeypatch.setattr(model, "train_on", dies)
    with pytest.raises(KeyboardInterrupt):
        mined(workplace)
    if damage is not None:
        (places[0] / mining.KEPT).write_bytes(damage)
    mined(workplace, epochs=12 if damage is not None else 11)
    assert len(workplace.trained) == 4 and (places[2] == places[0]) == (damage is not None)
