"""posts_pipeline through the real `mlflow run` on tiny posts: one parent, a child a stage, and nothing twice when it is repeated."""

from __future__ import annotations

import csv
import json
import time

import pytest

from core.stages.posts.mining import KEPT
from tests.core.data import fake_posts
from tests.core.stages.posts.hardening import WORDS
from tests.entrypoints.place import broken_files, kill_group

pytestmark = pytest.mark.slow

N, N_PREDICT = 90, 6
STAGES = [
    "prepare",
    "train",
    "head variants",
    "cleaning rules",
    "robustness",
    "mine",
    "augment images",
    "augment texts",
    "merge",
    "retrain",
    "compare with baseline",
    "error analysis",
    "reference",
    "blend",
    "predict",
]


@pytest.fixture(scope="module")
def ran(make_place):
    """Return the place, the parameters and the output of a pipeline on tiny posts."""
    place = make_place("posts")
    root = fake_posts.write(place.folder / "posts", N, N_PREDICT)
    for i in range(N + N_PREDICT):
        (root / "data" / f"{i + 1}.txt").write_text(f"post {i + 1} is {WORDS[(i + (i % 7 == 4)) % 3]} and nothing else is to be said of it")
    tiny = {
        "data_root": str(root),
        "image_encoder_name": "clip:small-32x1",
        "text_encoder_name": "clip:small-32x1",
        "image_size": "32",
        "embed_dim": "16",
        "epochs": "1",
        "cached_views": "1",
        "folds": "2",
        "gpu": "cpu",
        "threads": "1",
        "variants": "base",
        "rule_sets": "raw",
        "corruptions": "jpeg,typos",
        "register": "false",
        "output_dir": str(place.folder / "out"),
    }
    done = place.run(place.mlflow_command("posts_pipeline", **tiny))
    assert done.returncode == 0, done.stderr
    return place, tiny, done


def test_one_parent_has_a_finished_child_for_each_stage(ran):
    place, _, done = ran
    parent = place.first_parent()
    children = place.children(parent.info.run_id)
    assert parent.info.status == "FINISHED" and set(children) == set(STAGES)
    assert all(run.info.status == "FINISHED" for run in children.values())
    assert broken_files(place.artifacts(parent.info.run_id)) == []
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith("| model | validation accuracy") and "mlflow run . -e posts_pipeline -P data_root=" in note
    assert "on the untouched test posts" in done.stdout
    files = {
        path.relative_to(place.artifacts(parent.info.run_id)).as_posix() for path in place.artifacts(parent.info.run_id).rglob("*.png")
    }
    assert {
        "plots/robustness_robustness.png",
        "plots/compare_with_baseline_comparison.png",
        "plots/error_analysis_error_rates.png",
    } <= files
    assert {"retrain/val_macro_f1", "train/test_accuracy"} <= parent.data.metrics.keys()


def test_every_post_is_predicted_in_order_and_the_users_folder_has_it_too(ran):
    place, _, _ = ran
    parent = place.first_parent()
    folder = place.artifacts(parent.info.run_id)
    text = (folder / "predictions" / "test_with_label.txt").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["guid"] for row in rows] == [str(i) for i in range(N + 1, N + N_PREDICT + 1)]
    assert {row["tag"] for row in rows} <= set(fake_posts.TAGS)
    assert (place.folder / "out" / "predictions" / "test_with_label.txt").read_text() == text
    assert json.loads((folder / "summary.json").read_text())["chosen"] in ("train", "retrain", "reference", "blend")


def test_no_held_out_post_was_trained_on_or_mined(ran):
    place, _, _ = ran
    parent = place.first_parent()
    children = {name: place.artifacts(run.info.run_id) for name, run in place.children(parent.info.run_id).items()}

    def column(stage: str, name: str, column: str = "guid") -> set[str]:
        with open(children[stage] / name, newline="", encoding="utf-8") as file:
            return {row[column] for row in csv.DictReader(file)}

    held_out = column("prepare", "posts/val.csv") | column("prepare", "posts/test.csv")
    assert held_out and not held_out & column("mine", "bad_cases/bad_cases.csv")
    for name in ("guid", "source_guid"):
        assert not held_out & column("merge", "train_aug/train_aug.csv", name)
    assert column("mine", "bad_cases/oof_predictions.csv") == column("prepare", "posts/train.csv")


def test_the_same_command_again_reuses_every_stage_and_another_option_only_what_it_does_not_touch(ran):
    place, tiny, _ = ran
    first = place.first_parent()
    done = place.run(place.command("posts_pipeline", **tiny))
    assert done.returncode == 0, done.stderr
    again = place.parents()[0]
    reused = {key: value for key, value in again.data.tags.items() if key.startswith("taxon.reused.")}
    children = {f"taxon.reused.{name.replace(' ', '_')}": run.info.run_id for name, run in place.children(first.info.run_id).items()}
    assert reused == children and place.children(again.info.run_id) == {}
    own = {name: place.artifacts(run.info.run_id) / "summary.json" for name, run in (("first", first), ("again", again))}
    assert own["first"].read_text() == own["again"].read_text()
    done = place.run(place.command("posts_pipeline", **tiny | {"num_aug": "2"}))
    assert done.returncode == 0, done.stderr
    third = set(place.children(place.parents()[0].info.run_id))
    assert third == {"augment images", "augment texts", "merge", "retrain", "compare with baseline", "error analysis", "predict"}


def test_a_pipeline_killed_while_mining_continues_to_the_same_predictions(ran, make_place):
    undisturbed, tiny, _ = ran
    place = make_place("killed_posts")
    given = tiny | {"variants": "", "rule_sets": "", "corruptions": "typos", "output_dir": ""}
    process = place.start(place.mlflow_command("posts_pipeline", **given))
    try:
        mining = place.wait_for("mine", "RUNNING", process)
        ended = f"select 1 from runs where run_uuid = '{mining}' and status != 'RUNNING'"
        while not list((place.folder / "cache" / "work").glob(f"*/{KEPT}")) and not place.rows(ended) and process.poll() is None:
            time.sleep(0.02)
    finally:
        kill_group(process)
    assert place.survivors() == []
    before = place.children(place.parents()[0].info.run_id)
    finished = {name: run.info.run_id for name, run in before.items() if run.info.status == "FINISHED"}
    assert {"prepare", "train", "robustness"} <= set(finished) and "predict" not in finished
    done = place.run(place.command("posts_pipeline", **given))
    assert done.returncode == 0, done.stderr
    again = place.parents()[0]
    tags = {key: value for key, value in again.data.tags.items() if key.startswith("taxon.reused.")}
    assert tags == {f"taxon.reused.{name.replace(' ', '_')}": run_id for name, run_id in finished.items()}
    children = place.children(again.info.run_id)
    assert set(children) == set(STAGES) - {"head variants", "cleaning rules"} - set(finished)
    first = undisturbed.children(undisturbed.first_parent().info.run_id)
    for stage, name in (
        ("mine", "bad_cases/oof_predictions.csv"),
        ("predict", "predictions/test_with_label.txt"),
        ("predict", "predictions/confidence.csv"),
    ):
        same = undisturbed.artifacts(first[stage].info.run_id) / name
        assert (place.artifacts((before | children)[stage].info.run_id) / name).read_bytes() == same.read_bytes(), name


def test_a_mistake_is_one_line_before_any_stage(ran):
    place, tiny, _ = ran
    before = len(place.runs())
    for words, message in (
        ({"folds": "1"}, "folds = 1; give 2 or more"),
        ({"variants": "bse"}, "there is no 'bse'; did you mean 'base'?"),
        ({"image_encoder_name": "clip:small-16x1"}, "the width must be a multiple of 32"),
    ):
        done = place.run(place.command("posts_pipeline", **tiny | words))
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert len(place.runs()) == before + 3
