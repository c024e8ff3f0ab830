"""Mistakes: one line with the thing and the remedy, before any trial runs; no password in any of them."""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing

import optuna
import pytest

from core.errors import UserError
from core.tracking import run as tracking
from tests.tuning import toy
from tuning.storage import open_storage

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--n_trials=0",), ("n_trials = 0; use 1 or more",)),
        (("--n_trials=-3",), ("n_trials = -3",)),
        (("--n_startup_trials=0",), ("n_startup_trials = 0",)),
        (("--heartbeat=0",), ("heartbeat = 0",)),
        (("--max_retries=-1",), ("max_retries = -1",)),
        (("--pruner_warmup=-1",), ("pruner_warmup = -1",)),
        (("--timeout=-1",), ("timeout = -1",)),
        (("--sampler_seed=none",), ("sampler = tpe needs a seed", "give sampler_seed")),
        (("--sampler=random", "--sampler_seed=none"), ("sampler = random needs a seed",)),
        (("--sampler_seed=-1",), ("sampler_seed = -1",)),
        (("--sampler_seed=",), ("sampler_seed = ''",)),
        (("--sampler=tpee",), ("'tpee'", "did you mean 'tpe'?")),
        (("--metric=test/accuracy",), ("metric = 'test/accuracy'", "would leak")),
        (("--metric=toyy",), ("did you mean 'toy'?",)),
        (("--bounds=x=0.9:0.1",), ("bounds of x cross", "0.9 is above 0.1")),
        (("--bounds=y=0:1",), ("'y' is not searched", "searched are x, depth")),
        (("--bounds=x=0",), ("'x=0' is not understood", "name=low:high")),
        (("--bounds=x=0:inf",), ("is not understood",)),
        (("--bounds=depth=1.5:2",), ("must be whole numbers",)),
        (("--also=kind", "--bounds=kind=0:1"), ("for an option that has a range",)),
        (("--also=kin",), ("'kin' cannot be searched", "did you mean 'kind'?")),
        (("--sampler=grid", "--bounds=x=0:1"), ("means nothing to sampler = grid",)),
        (("--sampler=grid", "--also=kind"), ("means nothing to sampler = grid",)),
        (("--sampler=grid", "--n_trials=7"), ("more than the grid's 6 points",)),
        (("--epochs=0",), ("epochs = 0",)),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_options_that_cannot_be(bench, words, parts):
    said = bench.refused(*words)
    assert all(part in said for part in parts), said
    assert not (bench.folder / "cache" / "studies.db").exists()


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me@127.0.0.1:9/db",
        "postgresql://me@no.such.host.invalid/db",
        "mysql://me@127.0.0.1/db",
        "studies.db",
        "sqlite:///",
        "sqlite:////dev/null/studies.db",
    ],
)
def test_a_storage_out_of_reach_or_of_another_kind(bench, address):
    assert bench.refused(f"--storage={address}").startswith("storage = '")
    assert {run.info.status for run in bench.runs()} == {"FAILED"}


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://me:{SECRET}@127.0.0.1:9/db",
        f"postgresql://me:{SECRET}@no.such.host.invalid/db",
        f"postgresql://me:{SECRET}@127.0.0.1:port/db",
        f"postgresql://me:{SECRET}@{SECRET}@[::1/db",
        f"postgresql://127.0.0.1:9/db?user=me&password={SECRET}",
        f"postgresql://me:{SECRET}/x@127.0.0.1:9/db",
        f"mysql://me:{SECRET}@127.0.0.1/db",
        f"http://me:{SECRET}@127.0.0.1/db",
    ],
)
def test_a_password_in_an_address_is_refused_and_never_repeated(bench, address):
    """`mlflow run` keeps every option as a parameter of the run."""
    said = bench.refused(f"--storage={address}")
    assert "~/.pgpass" in said and SECRET not in said
    for run in bench.runs():
        assert run.info.status == "FAILED" and SECRET not in str(run.to_dictionary())
    with pytest.raises(UserError) as caught:  # whoever opens it in another way
        open_storage(address, 60)
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value)


def test_a_storage_that_is_no_database_or_someone_elses(bench):
    (bench.folder / "text.db").write_text("no database" * 200)
    assert "not a database" in bench.refused(f"--storage=sqlite:///{bench.folder}/text.db")
    assert "storage = " in bench.refused(f"--storage=sqlite:///{bench.folder}")
    with closing(sqlite3.connect(bench.folder / "other.db")) as connection:
        connection.execute("create table alembic_version (version_num text)")
        connection.execute("insert into alembic_version values ('of another program')")
        connection.commit()
    assert "compatible" in bench.refused(f"--storage=sqlite:///{bench.folder}/other.db")


@pytest.mark.parametrize(
    ("words", "differing"),
    [
        ("--bounds=x=0:0.5", "x is 0..1, not 0..0.5"),
        ("--also=kind", "kind is a, not a | b"),
        ("--sampler=random", "sampler is tpe, not random"),
        ("--sampler_seed=2", "sampler_seed is 1, not 2"),
        ("--pruner=none", "pruner is median, not none"),
        ("--offset=3", "offset is 0.0, not 3.0"),
        ("--data=other", "data is toy, not other"),
    ],
)
def test_a_study_of_another_space_under_the_same_name(bench, words, differing):
    bench.tune("--study_name=mine", "--n_trials=1")
    said = bench.refused("--study_name=mine", "--n_trials=1", "--n_startup_trials=3", words)
    assert f"its {differing}" in said and "give another study_name" in said
    bench.tune("--n_trials=1", words)  # without a name of its own it is simply another study


def test_a_study_of_another_family_under_the_same_name(bench):
    bench.tune("--study_name=mine", "--n_trials=1")
    other = toy.plan(dataclasses.replace(toy.SPACE, name="other"), toy.TuneToyConfig(study_name="mine"), "toy")
    with tracking.open_run("tune_other", "other") as run, pytest.raises(UserError) as caught:
        toy.run_studies([other], run)
    assert "its space is toy, not other" in str(caught.value) and "\n" not in str(caught.value)


def test_what_only_one_worker_does_otherwise_is_the_same_study(bench):
    bench.tune("--n_trials=1")
    bench.tune("--n_trials=2", "--timeout=60", "--heartbeat=9", "--max_retries=1", "--pause=0.001")
    assert len(bench.trials()) == 2


def test_a_study_that_somebody_else_made_is_left_alone(bench):
    bench.tune("--n_trials=1")
    optuna.create_study(storage=bench.storage, study_name="theirs").optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert "was not made by a tune command" in bench.refused("--study_name=theirs")


def test_an_option_that_is_searched_cannot_be_given_too(bench):
    plan = toy.plan
    options = toy.TuneToyConfig()
    with pytest.raises(UserError, match="is what this study searches"):
        plan(toy.SPACE, options, "toy", x=0.5)
