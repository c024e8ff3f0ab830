"""Comparisons: every variant with the same posts and seeds, reused where finished, shown with intervals."""

from __future__ import annotations

import contextlib
import json
from functools import partial

import numpy as np
import pytest
from sklearn.metrics import f1_score

from core.data.posts import Posts
from core.errors import UserError
from core.stages import execute
from core.stages.posts import compare_variants, optimize
from core.stages.posts.config_tools import HeadVariantConfig, PreprocessConfig
from core.stages.posts.stages import OPTIMIZE_CLIP
from core.tracking.stage import Finished
from core.tracking.store import machine_lock
from tests.core.stages.posts import tiny_posts
from tests.memory_run import MemoryRun

RNG = np.random.default_rng(0)


def options(root, **more):
    made = tiny_posts.config(root)
    return {name: getattr(made, name) for name in made.__dataclass_fields__} | more


@pytest.fixture
def told(root, tmp_path, monkeypatch):
    """Return a function that runs a comparison whose trainings are made up; it gives (summary, run, trained configurations)."""
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))

    def tell(stage, config):
        trained = []

        def made(child, _run):
            trained.append((child.name, child.config))
            folder = tmp_path / str(len(trained))
            posts = child.begin.keywords["rows"][config.part]
            wrong = posts.labels.copy()
            wrong[: len(trained)] = (wrong[: len(trained)] + 1) % 3
            (folder / "evaluation" / config.part).mkdir(parents=True)
            lines = [f"{guid},{posts.class_names[c]}" for guid, c in zip(posts.guids, wrong, strict=True)]
            (folder / "evaluation" / config.part / "predictions.csv").write_text("\n".join(["guid,predicted", *reversed(lines)]))
            return execute.Done(Finished(str(len(trained)), folder, {}, {}), False)

        monkeypatch.setattr(execute, "below", made)
        run = MemoryRun(tmp_path / "run")
        return stage(config, run), run.place / "comparison", trained

    return tell


def test_heads_and_ablations_differ_in_nothing_else(told, root):
    config = HeadVariantConfig(**options(root, register=True))
    summary, place, trained = told(compare_variants.heads, config)
    assert [row["name"] for row in summary["rows"]] == ["base", "ln", "mlp", "gated", "image", "text"]
    assert [(one.head_variant, one.modality) for _, one in trained] == [
        ("base", "both"),
        ("ln", "both"),
        ("mlp", "both"),
        ("gated", "both"),
        ("base", "image"),
        ("base", "text"),
    ]
    same = {
        name for name in config.__dataclass_fields__ if name not in ("head_variant", "modality", "register", "variants", "seeds", "part")
    }
    assert all(getattr(one, name) == getattr(config, name) for _, one in trained for name in same)
    assert not any(one.register for _, one in trained) and summary["best"] == "base"
    names = {path.name for path in place.iterdir()}
    assert names == {"table.csv", "comparison.json", "bars.png"}
    assert json.loads((place / "comparison.json").read_text())["rows"][0]["accuracy"][0] == pytest.approx(11 / 12)


def test_a_gate_gives_way_where_one_side_is_seen(told, root):
    config = HeadVariantConfig(**options(root, head_variant="gated", variants="text,gated"))
    _, _, trained = told(compare_variants.heads, config)
    assert [(one.head_variant, one.modality) for _, one in trained] == [("base", "text"), ("gated", "both")]


def test_of_one_side_the_default_compares_heads_only(told, root, capsys):
    _, _, trained = told(compare_variants.heads, HeadVariantConfig(**options(root, modality="text")))
    assert [(one.head_variant, one.modality) for _, one in trained] == [("base", "text"), ("ln", "text"), ("mlp", "text")]
    assert "taxon: variants leaves out gated: " in capsys.readouterr().err


def test_seeds_are_averaged_and_posts_resampled(told, root):
    config = HeadVariantConfig(**options(root, variants="base", seeds=2, seed=5, part="test"))
    summary, _, trained = told(compare_variants.heads, config)
    assert [one.seed for _, one in trained] == [5, 6] and summary["part"] == "test"
    (row,) = summary["rows"]
    assert row["accuracy_of_seeds"] == pytest.approx([11 / 12, 10 / 12]) and row["accuracy"][0] == pytest.approx(10.5 / 12)
    assert row["accuracy"][1] < row["accuracy"][0] < row["accuracy"][2] and row["runs"] == ["1", "2"]


def test_p_values_against_the_first_are_corrected_for_as_many_as_there_are(told, root, capsys):
    config = HeadVariantConfig(**options(root, variants="base,ln,mlp", part="test"))
    summary, place, _ = told(compare_variants.heads, config)
    base, ln, mlp = summary["rows"]  # 1, 2 and 3 posts wrong of 12, the same ones
    assert base["mcnemar_p"] is base["mcnemar_p_holm"] is None
    assert (ln["mcnemar_p"], mlp["mcnemar_p"]) == (1.0, 0.5) and (ln["mcnemar_p_holm"], mlp["mcnemar_p_holm"]) == (1.0, 1.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("p against the first (Holm)") and lines[-1].endswith(" 0.5 (1)")
    written = (place / "table.csv").read_text().splitlines()
    assert written[0].endswith(",mcnemar_p,mcnemar_p_holm") and written[1].endswith(",,") and written[3].endswith(",0.5,1")


def test_seeds_of_a_variant_and_duplicates_are_no_further_trials():
    labels = np.repeat(np.arange(6) % 3, 2)
    right = np.stack([labels, labels, labels], axis=1)
    outcomes = [compare_variants.Outcome(name, predicted, ()) for name, predicted in (("a", (right + 1) % 3), ("b", right))]
    every = compare_variants.against_first(outcomes, labels, np.arange(12))[1]["mcnemar_p"]
    assert every == pytest.approx(2 / 2**12)
    assert compare_variants.against_first(outcomes, labels, np.arange(12) // 2)[1]["mcnemar_p"] == pytest.approx(2 / 2**6)


def test_intervals_take_duplicates_together(root):
    posts = tiny_posts.parts(root)["val"]
    wrong = posts.labels.copy()
    wrong[:6] = (wrong[:6] + 1) % 3
    one = compare_variants.Outcome("a", wrong[:, None], ())
    alone, paired = (compare_variants.row_of(one, posts, 1, groups)["accuracy"] for groups in (np.arange(12), np.arange(12) // 6))
    assert alone[0] == paired[0] == 0.5 and (paired[1], paired[2]) == (0.0, 1.0) and alone[1] > 0.1


def test_rule_sets_and_rules_of_ones_own(told, root):
    config = PreprocessConfig(**options(root, rule_sets="raw,urls+lower"))
    summary, _, trained = told(compare_variants.preprocessing, config)
    assert [one.cleaning for _, one in trained] == ["raw", "urls,lower"]
    assert [row["name"] for row in summary["rows"]] == ["raw", "urls+lower"]


@pytest.mark.parametrize(
    ("stage", "config", "message"),
    [
        (compare_variants.heads, {"variants": "base,gatted"}, "there is no 'gatted'; did you mean 'gated'"),
        (compare_variants.heads, {"variants": "ln,ln"}, "names 'ln' twice"),
        (compare_variants.heads, {"variants": " "}, "variants is empty"),
        (compare_variants.heads, {"modality": "text", "variants": "gated"}, "variants = 'gated', gated: "),
        (compare_variants.heads, {"lora_rank": 2}, "variants = '.*', base: lora_rank = 2, but no pretrained tower trains"),
        (compare_variants.heads, {"seeds": 0}, "seeds = 0"),
        (compare_variants.preprocessing, {"rule_sets": "urls+lowr"}, "'lowr' is neither a set"),
    ],
)
def test_mistakes_are_one_line(told, root, stage, config, message):
    kind = HeadVariantConfig if stage is compare_variants.heads else PreprocessConfig
    with pytest.raises(UserError, match=message):
        told(stage, kind(**options(root, **config)))


class Trained(Exception):
    """Stands for a training that has begun."""


def test_one_training_of_a_key_at_a_time_and_the_result_of_whoever_came_first_is_taken(root, tmp_path, monkeypatch):
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))
    made, rows, asked = tiny_posts.config(root), tiny_posts.parts(root), []
    finished = Finished("first", tmp_path, {}, {})
    child = execute.Child(OPTIMIZE_CLIP, made, "title", partial(optimize.begin, rows=rows))

    def locked():
        with machine_lock(f"stage {optimize.key_of(made, rows)}", blocking=False) as free:
            return not free

    def train(*_given, **_named):
        asked.append(("train", locked()))
        raise Trained

    monkeypatch.setattr(execute.stages, "find_finished", lambda key: asked.append(("find", locked())))
    monkeypatch.setattr(execute.stages, "find_unfinished", lambda key: None)
    monkeypatch.setattr(execute.stages, "load_finished", lambda run_id: finished)
    monkeypatch.setattr("core.tracking.run.open_child", lambda *_: contextlib.nullcontext(MemoryRun(tmp_path)))
    monkeypatch.setattr(optimize, "PostsTraining", train)
    with pytest.raises(Trained):
        execute.below(child, MemoryRun(tmp_path))
    with pytest.raises(Trained):
        optimize.run(made, MemoryRun(tmp_path))
    assert asked == [("find", True), ("train", True)] * 2 and not locked()
    monkeypatch.setattr(execute.stages, "find_finished", lambda key: finished)
    assert execute.below(child, MemoryRun(tmp_path)) == execute.Done(finished, True)
    with machine_lock(f"stage {optimize.key_of(made, rows)}"), pytest.raises(Trained):
        execute.perform(OPTIMIZE_CLIP, made, MemoryRun(tmp_path))  # its pipeline holds the lock


def test_macro_f1_is_that_of_the_classes_that_there_are():
    for _ in range(20):
        labels, predicted = RNG.integers(0, 3, 30), RNG.integers(0, 4, 30)
        expected = f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
        assert compare_variants.macro_f1(labels, predicted) == pytest.approx(expected)


def test_predictions_are_matched_by_guid(tmp_path):
    (tmp_path / "p.csv").write_text("guid,predicted\n007,positive\n7,negative\n")
    posts = Posts(("7", "007"), ("a", "b"), (tmp_path / "x", tmp_path / "y"), np.array([0, 1]))
    assert compare_variants.predictions_in(tmp_path / "p.csv", posts).tolist() == [0, 2]
