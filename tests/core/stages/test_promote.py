"""A candidate becomes champion only on better answers to the same unseen items; everything else is refused in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from core import digest
from core.errors import UserError
from core.stages import held_out, promote
from core.stages.discovery import register
from core.stages.discovery.materials import load_data
from core.stages.promote_config import PromoteConfig
from core.tracking import ask, provenance, registry, versions
from core.tracking import run as tracking
from tests.core.conftest import client, store_template, tracking_env  # noqa: F401  (fixtures)
from tests.core.stages import registered, tiny
from tests.core.stages.registered import BAD, FAIR, GOOD, NAME

WORST, BEST, MIDDLE = "1", "2", "3"  # the versions of the shared store, in the order of their registration


@pytest.fixture(scope="module")
def registered_store(tmp_path_factory, store_template) -> Path:  # noqa: F811
    """Return a folder with a store of three versions; tests work on copies of its database."""
    folder = tmp_path_factory.mktemp("registered")
    tiny.make_images(folder / "glyphs")
    shutil.copy(store_template, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("TAXON_CACHE", str(folder / "cache"))
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        MlflowClient().create_experiment("taxon", artifact_location=f"file://{folder}/artifacts")
        for number, names in ((WORST, BAD), (BEST, GOOD), (MIDDLE, FAIR)):
            assert registered.make(folder / number, folder / "glyphs", names) == number
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


@dataclasses.dataclass
class Desk:
    """A copy of the shared store, and promotions in it."""

    folder: Path
    images: Path
    client: MlflowClient
    asked: list[str]

    def promote(self, **options: Any) -> dict[str, Any]:
        """Run a promotion in a run of its own; return what it found."""
        with tracking.open_run("promote", "promote") as run:
            self.run_id = run.run_id
            return promote.run(PromoteConfig(**{"name": NAME} | options), run)

    def refused(self, **options: Any) -> str:
        """Run a promotion that must be refused and change nothing; return its line."""
        before = self.registry()
        with pytest.raises(UserError) as error:
            self.promote(**options)
        assert "\n" not in str(error.value) and self.registry() == before
        assert not list((self.folder / "cache" / "tmp").glob("*"))
        assert self.client.get_run(self.run_id).data.tags["taxon.reason"] == str(error.value)
        return str(error.value)

    def registry(self) -> Any:
        """Return aliases and tags of everything that is registered."""
        model = self.client.get_registered_model(NAME)
        return dict(model.aliases), {v.version: dict(v.tags) for v in self.client.search_model_versions(f"name = '{NAME}'")}

    def champion(self) -> str | None:
        number = self.client.get_registered_model(NAME).aliases.get("champion")
        return None if number is None else str(number)

    def set_champion(self, number: str) -> None:
        self.client.set_registered_model_alias(NAME, "champion", number)

    def why(self, number: str) -> str:
        return self.client.get_model_version(NAME, number).tags.get(versions.WHY_TAG, "")


def by_name(folder: Path, rows: Any, what: str) -> list[dict[str, Any]]:
    """Answer as a tiny model whose clusters are the classes does: with the names that its clusters carry."""
    (about,) = folder.glob("data/*/model.json")
    clusters = json.loads(about.read_text())["clusters"]
    found = [tiny.CLASSES.index(Path(row["image"]).parent.name) for row in rows]
    return [{"class": clusters[i]["name"], "confidence": 0.5, "cluster": i, "known": clusters[i]["known"]} for i in found]


@pytest.fixture
def desk(tmp_path, monkeypatch, registered_store) -> Desk:
    """Return a desk whose models answer without a process of their own."""
    shutil.copy(registered_store / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    asked: list[str] = []

    def answers(folder: Path, rows: Any, what: str) -> list[dict[str, Any]]:
        asked.append(what)
        return by_name(folder, rows, what)

    monkeypatch.setattr(ask, "answers", answers)
    return Desk(tmp_path, registered_store / "glyphs", MlflowClient(), asked)


def test_what_a_training_warns_of_is_said_of_the_candidate(desk, capsys):
    desk.client.set_model_version_tag(NAME, MIDDLE, "taxon.warning", "a linear probe is better")
    said = f"version {MIDDLE} of {NAME}: a linear probe is better"
    assert desk.promote(candidate=MIDDLE, dry_run=True)["notices"][0] == said and f"taxon: {said}\n" in capsys.readouterr().out
    assert said in desk.client.get_run(desk.run_id).data.tags["mlflow.note.content"]
    assert said not in desk.promote(candidate=BEST, dry_run=True)["notices"]


def test_the_first_champion_is_the_best_recorded_version_and_versions_and_run_say_why(desk):
    found = desk.promote()
    assert (found["candidate"], found["champion"], found["promoted"]) == (f"models:/{NAME}/{BEST}", None, True)
    assert desk.champion() == BEST and "no champion to compare with" in desk.why(BEST) and desk.run_id in desk.why(BEST)
    run = desk.client.get_run(desk.run_id)
    assert run.data.tags["taxon.promoted"] == "true" and "accuracy 1.0000" in run.data.tags["taxon.promotion"]
    assert run.data.metrics["promotion/candidate"] == 1.0
    assert "| candidate, version 2 | 1.0000 (1.0000 to 1.0000) |" in run.data.tags["mlflow.note.content"]


def test_a_better_candidate_takes_over_and_the_interval_is_the_paired_one(desk):
    desk.set_champion(WORST)
    found = desk.promote(candidate=MIDDLE)
    assert desk.champion() == MIDDLE and (found["of_champion"]["value"], found["of_candidate"]["value"]) == (0.25, 0.75)
    assert found["gain"]["low"] < found["gain"]["value"] < found["gain"]["high"] and found["items"] == 20 and found["part"] == "test"
    assert f"of version {WORST}" in desk.why(MIDDLE)


def test_a_worse_candidate_leaves_the_champion_and_is_told_why(desk):
    desk.set_champion(BEST)
    found = desk.promote(candidate=MIDDLE)
    assert not found["promoted"] and desk.champion() == BEST
    assert desk.why(MIDDLE).startswith("not promoted: ") and desk.client.get_run(desk.run_id).data.tags["taxon.promoted"] == "false"


@pytest.mark.parametrize(("rule", "end"), [("point", "value"), ("interval", "low")])
def test_by_the_rule_the_gain_or_the_lower_end_of_its_interval_has_to_be_above_min_gain(desk, rule, end):
    desk.set_champion(WORST)
    gain = desk.promote(candidate=BEST, rule=rule, dry_run=True)["gain"][end]
    assert not desk.promote(candidate=BEST, rule=rule, min_gain=gain)["promoted"] and desk.champion() == WORST
    assert desk.promote(candidate=BEST, rule=rule, min_gain=gain - 1e-6)["promoted"] and desk.champion() == BEST


def test_a_gain_that_five_answers_make_is_not_sure(desk):
    """Of 20 test items FAIR has 15 right and GOOD all: a matter of luck in one of 32 cases."""
    desk.set_champion(MIDDLE)
    found = desk.promote(candidate=BEST)
    assert not found["promoted"] and found["gain"]["value"] == 0.25 and found["gain"]["low"] == 0.0
    assert "the interval lies not above min_gain 0" in desk.why(BEST) and "97.5 % interval" in desk.why(BEST)
    assert desk.promote(candidate=BEST, rule="point")["promoted"] and "by rule = point it is above" in desk.why(BEST)


def test_all_candidates_since_the_promotion_count_and_widen_the_interval(desk, tmp_path):
    desk.set_champion(WORST)  # by hand: whatever else there is may have been looked at
    several = desk.promote(dry_run=True)
    assert several["looked_at"] == 2 and several["gain"]["level"] == pytest.approx(0.975)
    assert "2 candidates looked at: versions 2, 3" in several["why"]
    assert desk.promote(candidate=BEST)["promoted"]
    for tag in ("taxon.promoted", "taxon.promoted_over"):
        assert tag in desk.client.get_model_version(NAME, BEST).tags
    alone = registered.make(tmp_path / "m", desk.images, BAD)
    found = desk.promote()  # the best recorded of those that came since, though MIDDLE is better
    assert found["candidate"].endswith(alone) and found["looked_at"] == 1 and found["gain"]["level"] == 0.95
    assert desk.promote(candidate=MIDDLE)["looked_at"] == 2


@pytest.mark.parametrize(("part", "looked_at", "said"), [("val", 41, "the best of 40 trials of study s"), ("test", 2, "did not see")])
def test_trials_of_the_candidates_study_count_where_they_saw_the_items(desk, tmp_path, part, looked_at, said):
    desk.set_champion(BEST)
    with tracking.open_run("tune", "study") as study:
        study.tags({"taxon.study": "s", "taxon.trials": "40"})
    number = registered.make(tmp_path / "m", desk.images, tags={"taxon.config": f"runs:/{study.run_id}/best.json"})
    desk.client.set_model_version_tag(NAME, BEST, versions.OVER_TAG, "2")
    found = desk.promote(candidate=number, part=part)
    assert found["looked_at"] == looked_at and said in found["why"]


def test_the_part_decides_and_validation_is_said(desk, capsys):
    desk.set_champion(WORST)
    found = desk.promote(candidate=BEST, part="val", dry_run=True)
    assert (found["items"], found["part"]) == (18, "val") and found["of_champion"]["value"] == 0.0
    lines = ["part = val: judged on validation items", "known classes alone are judged"]
    assert [line for line, notice in zip(lines, found["notices"], strict=True) if notice.startswith(line)] == lines
    assert all(line in capsys.readouterr().out for line in lines[:1])
    assert "known classes alone" in desk.client.get_run(desk.run_id).data.tags["taxon.notices"]
    assert desk.promote(candidate=BEST, part="test", dry_run=True)["notices"] == []


def test_without_a_test_part_validation_decides_and_a_test_part_cannot_be_asked_for(desk, tmp_path):
    images = shutil.copytree(desk.images, tmp_path / "glyphs")
    shutil.rmtree(images / "test")
    number = registered.make(tmp_path / "m", images)
    desk.set_champion(WORST)
    found = desk.promote(candidate=number, dry_run=True)
    assert found["part"] == "val" and f"version {number} of {NAME} has no test part: judged on validation" in found["notices"][0]
    assert "registered without a test part" in desk.refused(candidate=number, part="test")


def test_a_challenger_that_loses_the_novel_classes_is_not_better(desk, tmp_path):
    """Perfect on the known images of the validation part, and it calls every ring a bar."""
    desk.set_champion(BEST)
    number = registered.make(tmp_path / "m", desk.images, novel="bar")
    found = desk.promote(candidate=number, rule="point")
    assert not found["promoted"] and found["gain"]["value"] == pytest.approx(-0.25)
    assert found["categories"]["champion"] == {"all": 1.0, "old": 1.0, "new": 1.0, "v2_all": 1.0, "v2_old": 1.0, "v2_new": 1.0}
    mine = found["categories"]["candidate"]
    assert (mine["all"], mine["old"], mine["new"]) == (0.75, 1.0, 0.0)
    run = desk.client.get_run(desk.run_id)
    assert run.data.metrics["promotion/candidate_new"] == 0.0
    assert "| candidate, All/Old/New | 0.750/1.000/0.000 |" in run.data.tags["mlflow.note.content"]
    assert desk.promote(candidate=number, part="val")["gain"]["value"] == 0.0


def test_a_gain_by_rounding_alone_is_a_tie():
    labels = tuple(name for name in "abc" for _ in range(10))
    items = SimpleNamespace(labels=labels, group_ids=np.arange(len(labels)))
    config = PromoteConfig(name=NAME, n_bootstrap=5)
    recalls = [[1, 2, 3], [3, 2, 1]]
    answers = [tuple(name if i < right[c] else "abc"[c - 1] for c, name in enumerate("abc") for i in range(10)) for right in recalls]
    first, second = (held_out.scores(labels, given)["balanced_accuracy"] for given in answers)
    assert first != second and first == pytest.approx(second, abs=1e-12)  # as floats
    contestants = [promote.Contestant(SimpleNamespace(number=str(i)), None, given) for i, given in enumerate(answers)]
    desk = SimpleNamespace(items=items, metric="balanced_accuracy", config=config, part="val", looked=promote.Looked())
    for pair in (contestants, contestants[::-1]):
        assert not promote.Promotion.decide(desk, *pair, "point").better


def test_a_dry_run_decides_and_changes_nothing(desk):
    desk.set_champion(WORST)
    before = desk.registry()
    found = desk.promote(candidate=BEST, dry_run=True)
    assert desk.registry() == before and not found["promoted"] and found["gain"]["value"] == 0.75
    assert desk.client.get_run(desk.run_id).data.tags["taxon.promotion"].startswith("would be promoted: ")


def test_the_metric_decides_and_seed_and_resamples_make_the_interval(desk):
    desk.set_champion(WORST)
    found = desk.promote(candidate=MIDDLE, metric="macro_f1", dry_run=True)
    items = held_out.load("discovery", dataclasses.asdict(registered.options(desk.images)), "test")
    answers = ["bar" if label == "cross" else label for label in items.labels]
    assert (
        found["of_candidate"]["value"] == pytest.approx(held_out.scores(items.labels, answers)["macro_f1"])
        and found["metric"] == "macro_f1"
    )
    low = [
        desk.promote(candidate=MIDDLE, dry_run=True, seed=seed, n_bootstrap=n)["of_candidate"]["low"]
        for seed, n in ((0, 20), (0, 20), (1, 20), (0, 1))
    ]
    assert low[0] == low[1] and len(set(low)) > 1


@pytest.mark.parametrize("way", ["challenger", MIDDLE, f"models:/{NAME}/{MIDDLE}", f"models:/{NAME}@challenger", "runs:/", "models:/m-"])
def test_a_candidate_is_named_by_number_alias_or_origin(desk, way):
    version = desk.client.get_model_version(NAME, MIDDLE)
    given = {"runs:/": f"runs:/{version.run_id}", "models:/m-": version.source}.get(way, way)
    assert desk.promote(candidate=given)["candidate"] == f"models:/{NAME}/{MIDDLE}"


def test_family_and_data_name_the_model(desk):
    assert desk.promote(name="", family="discovery", data="glyphs", candidate=BEST)["promoted"]


def test_asking_again_for_the_champion_changes_nothing(desk):
    desk.promote(candidate=BEST)
    before = desk.registry()
    assert not desk.promote(candidate=BEST)["promoted"] and desk.registry() == before


def test_an_alias_held_by_a_deleted_version_is_named_and_counts_as_absent(desk, capsys):
    desk.set_champion(WORST)
    desk.client.delete_model_version(NAME, WORST)
    with contextlib.closing(sqlite3.connect(desk.folder / "mlflow.db")) as connection:  # whatever this MLflow does with the alias
        connection.execute("INSERT OR REPLACE INTO registered_model_aliases (name, alias, version) VALUES (?, 'champion', 1)", (NAME,))
        connection.commit()
    found = desk.promote(candidate=BEST)
    said = f"the alias champion of {NAME} is held by version {WORST}, which has been deleted; it counts as absent"
    assert found["notices"] == [said] and said in capsys.readouterr().out
    assert desk.champion() == BEST and found["champion"] is None


def test_a_champion_that_changed_meanwhile_is_compared_with(desk, monkeypatch):
    desk.set_champion(WORST)
    plain = ask.answers

    def promote_another(folder: Path, rows: Any, what: str) -> Any:
        if what.startswith(f"version {WORST} "):
            desk.set_champion(BEST)  # while the old champion is asked
        return plain(folder, rows, what)

    monkeypatch.setattr(ask, "answers", promote_another)
    found = desk.promote(candidate=MIDDLE)
    assert desk.champion() == BEST and found["champion"] == f"models:/{NAME}/{BEST}" and not found["promoted"]
    assert [what.split()[1] for what in desk.asked] == [MIDDLE, WORST, BEST]


@pytest.mark.parametrize(("mine", "theirs", "left"), [(MIDDLE, BEST, BEST), (BEST, MIDDLE, BEST)])
def test_of_two_machines_without_a_common_lock_the_better_version_is_left(desk, monkeypatch, mine, theirs, left):
    desk.set_champion(WORST)
    plain = versions.move_champion

    def at_the_same_time(client: Any, version: Any, run_id: str, why: str, newest: str) -> None:  # noqa: F811
        monkeypatch.setattr(versions, "move_champion", plain)
        plain(client, versions.find(client, NAME, theirs), "another machine's run", "promoted there", newest)
        plain(client, version, run_id, why, newest)

    monkeypatch.setattr(versions, "move_champion", at_the_same_time)
    found = desk.promote(candidate=mine)
    assert desk.champion() == left and found["promoted"] == (left == mine)


def test_wrong_names_get_the_nearest_and_what_there_is(desk):
    assert f"did you mean '{NAME}'?" in desk.refused(name="taxon-discovery-glyph")
    assert f"registered are {NAME}" in desk.refused(name="xyz")
    assert "did you mean 'challenger'?" in desk.refused(candidate="chalenger")
    assert "no version of" in desk.refused(candidate="champion")
    assert "has no version 9" in desk.refused(candidate="9") and "1, 2, 3" in desk.refused(candidate="9")
    assert "has no version from there" in desk.refused(candidate="runs:/0123")
    assert "give name" in desk.refused(name="")
    assert "give one of them" in desk.refused(family="discovery", data="glyphs")


@pytest.mark.parametrize(("option", "value"), [("min_gain", -0.1), ("min_gain", 1.0), ("n_bootstrap", 0), ("seed", -1)])
def test_options_that_cannot_be_are_refused(desk, option, value):
    assert desk.refused(**{option: value}).startswith(f"{option} = {value}")


def test_a_candidate_of_another_model_or_family_is_refused(desk, tmp_path):
    assert f"of the model 'taxon-longtail-glyphs', not of '{NAME}'" in desk.refused(candidate="models:/taxon-longtail-glyphs/1")
    desk.set_champion(WORST)
    other = dataclasses.replace(registered.evaluation(desk.images), family="longtail")
    number = registered.make(tmp_path / "m", desk.images, recorded=other)
    desk.client.set_registered_model_alias(NAME, "champion", number)
    assert f"of the family discovery, version {number}" in desk.refused(candidate=BEST)


def test_a_champion_of_other_classes_novel_classes_or_data_is_not_compared(desk, tmp_path):
    """A champion that calls the classes otherwise has every answer wrong, however good it is."""
    own = register.identity(load_data(registered.options(desk.images))[0])
    others = {
        "other classes ('bar' against 'balken')": dataclasses.replace(own, labels=("balken", "cross", "dot")),
        "other novel classes ('ring' against 'star')": dataclasses.replace(own, novel=("star",)),
        "other data": dataclasses.replace(own, data=tuple(sorted(digest.of_json(i)[:12] for i in range(80)))),
    }
    for i, (said, identity) in enumerate(others.items()):
        number = registered.make(tmp_path / str(i), desk.images, BAD)
        desk.set_champion(number)
        told = iter([own, identity])  # of the candidate, then of the champion
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(versions, "identity", lambda folder, told=told: next(told))
            line = desk.refused(candidate=BEST)
        assert f"version 2 of {NAME} and version {number} of {NAME} are models of {said}: they are not compared" in line


def test_a_version_that_trained_on_the_items_by_its_starting_weights_is_refused(desk, tmp_path):
    test = held_out.load("discovery", dataclasses.asdict(registered.options(desk.images)), "test")
    own = registered.evaluation(desk.images)
    number = registered.make(tmp_path / "m", desk.images, recorded=dataclasses.replace(own, trained=(*own.trained, *test.contents[:3])))
    assert f"version {number} of {NAME} has trained on 3 of its 20 test items" in desk.refused(candidate=number)
    desk.set_champion(number)
    assert "which has trained on 3 of these 20 test items" in desk.refused(candidate=BEST)


def test_family_and_data_that_mean_several_models_are_refused(desk, tmp_path):
    registered.make(tmp_path / "m", tiny.make_images(tmp_path / "glyphs", seed=5))
    several = [model.name for model in desk.client.search_registered_models()]
    assert len(several) == 2
    said = desk.refused(name="", family="discovery", data="glyphs")
    assert "mean 2 models" in said and all(name in said for name in several)


@pytest.mark.parametrize("where", ["version", "run"])
def test_a_candidate_selected_by_oracle_is_refused_and_never_chosen(desk, where):
    version = desk.client.get_model_version(NAME, BEST)
    if where == "run":
        desk.client.set_tag(version.run_id, "taxon.select_by", "oracle")
    else:
        desk.client.set_model_version_tag(NAME, BEST, "taxon.select_by", "oracle")
    assert "selected by oracle" in desk.refused(candidate=BEST)
    assert desk.promote()["candidate"] == f"models:/{NAME}/{MIDDLE}"


@pytest.mark.parametrize("value", ["nan", "inf", "many"])
def test_a_recorded_metric_that_is_not_finite_is_refused_and_never_chosen(desk, value):
    desk.client.set_model_version_tag(NAME, BEST, "taxon.held_out.accuracy", value)
    assert f"accuracy = {value}, which is not finite" in desk.refused(candidate=BEST)
    assert desk.promote()["candidate"] == f"models:/{NAME}/{MIDDLE}"


def test_answers_that_are_not_finite_are_refused(desk, monkeypatch):
    monkeypatch.setattr(ask, "answers", lambda folder, rows, what: [{"class": "bar", "confidence": math.nan} for _ in rows])
    assert "confidence = nan" in desk.refused(candidate=BEST)


def test_unfinished_runs_give_no_candidate_by_themselves(desk):
    for number in (WORST, BEST, MIDDLE):
        desk.client.set_terminated(desk.client.get_model_version(NAME, number).run_id, "FAILED")
    assert "has no version that can be promoted" in desk.refused()


def test_a_version_without_a_record_of_its_evaluation_is_refused(desk, tmp_path):
    number = registered.make(tmp_path / "m", desk.images, recorded=held_out)
    assert "does not say on what it was evaluated" in desk.refused(candidate=number)


def test_other_data_than_the_candidate_was_evaluated_on_are_refused(desk, tmp_path):
    other = tiny.make_images(tmp_path / "other", seed=5)
    said = desk.refused(candidate=BEST, data_root=str(other))
    assert f"data_root = '{other}'" in said and "are not those of version 2" in said


def test_moved_images_are_found_by_data_root_or_data_options(desk, tmp_path):
    moved = shutil.copytree(desk.images, tmp_path / "moved")
    assert desk.promote(candidate=BEST, data_root=str(moved))["promoted"]
    assert desk.promote(candidate=MIDDLE, data_options=f"data_root={moved}")["gain"]["value"] < 0
    assert "did you mean 'data_root'?" in desk.refused(candidate=BEST, data_options=f"data_roo={moved}")
    assert "no <option>=<value>" in desk.refused(candidate=BEST, data_options="data_root")


def test_a_champion_that_trained_on_the_candidates_held_out_items_is_not_compared(desk, tmp_path):
    desk.set_champion(BEST)
    number = registered.make(tmp_path / "m", desk.images, GOOD, seed=2)
    said = desk.refused(candidate=number, part="val")
    assert "evaluated on other data" in said and "has trained on" in said and "its seed" in said
    assert desk.promote(candidate=number, dry_run=True)["gain"]["value"] == 0.0  # neither has trained on test images
    assert "has no version besides its champion" not in desk.promote(candidate="")["why"]  # the others share the champion's data


def test_compiled_code_beside_the_sealed_source_is_not_run(desk, tmp_path):
    number = registered.make(tmp_path / "m", desk.images)
    version = versions.find(desk.client, NAME, number)
    source = desk.client.get_logged_model(version.source.removeprefix("models:/"))
    cache = Path(source.artifact_location.removeprefix("file://")) / "code" / "core" / "__pycache__"
    cache.mkdir()
    (cache / f"errors.{sys.implementation.cache_tag}.pyc").write_bytes(b"somebody else's")
    found = versions.fetch(version, tmp_path / "fetched")
    assert (found / "code" / "core" / "errors.py").is_file() and not list(found.rglob("*.pyc"))


@pytest.mark.parametrize("damage", ["change", "remove", "code", "all", "foreign", "elsewhere"])
def test_missing_and_damaged_files_are_named(desk, tmp_path, damage):
    number = registered.make(tmp_path / "m", desk.images)
    source = desk.client.get_logged_model(desk.client.get_model_version(NAME, number).source.removeprefix("models:/"))
    folder = Path(source.artifact_location.removeprefix("file://"))
    weights = folder / "data" / "data" / "model.safetensors"
    if damage == "change":
        weights.write_bytes(weights.read_bytes()[:-8] + b"damaged!")
    elif damage == "remove":
        weights.unlink()
    elif damage == "code":
        (folder / "code" / "core" / "errors.py").write_text("raise SystemExit\n")
    elif damage == "elsewhere":
        (folder / "MLmodel").write_text((folder / "MLmodel").read_text().replace("code: code", "code: data"))
    elif damage == "foreign":
        (folder / "MLmodel").write_text((folder / "MLmodel").read_text().replace("core.tracking.served", "mlflow.sklearn"))
    else:
        shutil.rmtree(folder)
    expected = {
        "change": "model.safetensors is not the file that was registered",
        "remove": "model.safetensors is missing",
        "code": "its files are not those that were registered",
        "foreign": "was not registered by this project",
        "elsewhere": "was not registered by this project",
        "all": "missing",
    }
    said = desk.refused(candidate=number)
    assert f"version {number} of {NAME}" in said and expected[damage] in said
    desk.set_champion(number)
    assert expected[damage] in desk.refused(candidate=BEST)


def test_the_store_holds_what_promotion_needs_and_no_pickle(desk, registered_store):
    tags = desk.client.get_model_version(NAME, BEST).tags
    record = registered.evaluation(desk.images)
    assert (
        tags["taxon.evaluated_on"] == record.data and float(tags["taxon.held_out.accuracy"]) == 1.0 and tags["taxon.metric"] == "accuracy"
    )
    assert {registry.short(content) for content in record.trained}.isdisjoint(
        registry.short(content) for content in held_out.load("discovery", record.options, "val").contents
    )
    kept = [path.name for path in registered_store.rglob("*") if path.is_file()]
    assert not [name for name in kept if name.endswith((".pkl", ".pt", ".pth", ".bin"))] and "trained.json" in kept


@pytest.mark.slow
def test_two_processes_that_promote_at_once_end_with_the_better_one(tmp_path, registered_store):
    shutil.copy(registered_store / "mlflow.db", tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)  # noqa: F811
    client.set_registered_model_alias(NAME, "champion", WORST)
    env = os.environ | {"MLFLOW_TRACKING_URI": uri, "TAXON_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "entrypoints.promote", f"--name={NAME}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = [subprocess.Popen([*words, f"--candidate={number}"], cwd=provenance.ROOT, env=env, **pipes) for number in (MIDDLE, BEST)]
    said = [process.communicate(timeout=900)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert str(client.get_registered_model(NAME).aliases["champion"]) == BEST
    # Its real answers on the test part, novel categories among them: eighteen of twenty.
    assert f"version {BEST} promoted: accuracy 0.9000" in said[1]


@pytest.mark.slow
def test_a_process_asks_the_stored_model_with_its_own_code(tmp_path, desk, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{desk.folder}/mlflow.db")
    monkeypatch.setenv("TAXON_CACHE", str(desk.folder / "cache"))
    version = versions.find(desk.client, NAME, BEST)
    (tmp_path / "fetched").mkdir()
    folder = versions.fetch(version, tmp_path / "fetched")
    items = held_out.load("discovery", dataclasses.asdict(registered.options(desk.images)), "val")
    answers = ask.answers(folder, items.rows(), str(version))
    assert [answer["class"] for answer in answers] == list(items.labels) and all(0 < answer["confidence"] <= 1 for answer in answers)
    with pytest.raises(UserError, match=r"version 2 .* cannot be asked: .*neither an image file"):
        ask.answers(folder, [{"image": "no image"}], str(version))
    (folder / "data" / "data" / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.safetensors is not the file that was registered"):
        ask.answers(folder, items.rows(), str(version))
