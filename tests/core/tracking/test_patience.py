"""A store that is away is waited for; one that refuses is not; what was asked twice is made once."""

from __future__ import annotations

import pytest
import requests
from mlflow.exceptions import MlflowException

from core.errors import UserError
from core.tracking import names, outbox, patience, registry
from core.tracking import run as tracking

AWAY = MlflowException("API request to http://h failed with exception [Errno 111] Connection refused")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(patience, "SAID_AFTER", 0.01)
    monkeypatch.setenv(patience.PATIENCE, "2")
    patience.patiently(lambda: None, "begin afresh")


def failing(times: int, error: Exception = AWAY, done=lambda: "done"):
    left = [error] * times

    def work():
        if left:
            raise left.pop()
        return done()

    return work


def test_an_outage_is_waited_out_and_said(capsys):
    assert patience.patiently(failing(3), "store tags") == "done"
    said = capsys.readouterr().err
    assert "does not answer ([Errno 111] Connection refused); waiting for it up to 2 s to store tags" in said
    assert "answers again" in said


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (AWAY, True),
        (MlflowException("API request to endpoint /x failed with error code 503 != 200"), True),
        (requests.ConnectionError("Connection refused"), True),
        (ConnectionResetError(104, "reset"), True),
        (MlflowException("Run with id=x not found", error_code=1001), False),
        (MlflowException("(sqlite3.OperationalError) database or disk is full"), False),
        (MlflowException("no such table: runs; timed out"), False),
        (ValueError("timed out"), False),
        (OSError(28, "No space left on device"), False),
    ],
)
def test_only_an_outage_is_one(error, away):
    assert patience.is_outage(error) == away


def test_a_refusal_is_not_repeated():
    calls = []

    def refuse():
        calls.append(1)
        raise MlflowException("invalid", error_code=1000)

    with pytest.raises(MlflowException):
        patience.patiently(refuse, "x")
    assert len(calls) == 1


def test_patience_ends_and_is_spent_only_once(monkeypatch):
    monkeypatch.setenv(patience.PATIENCE, "0.2")
    with pytest.raises(UserError, match=r"did not answer.*run the same command again"), patience.outage_named():
        patience.patiently(failing(100), "x")
    work = failing(3)
    with pytest.raises(MlflowException):
        patience.patiently(work, "x")
    with pytest.raises(MlflowException):  # two calls, two attempts: no second wait
        patience.patiently(work, "x")


def test_a_run_whose_making_lost_its_answer_is_made_once(client, monkeypatch):
    made, real = [], patience.MlflowClient.create_run

    def create_run(self, *args, **named):
        made.append(real(self, *args, **named))
        if len(made) == 1:
            raise AWAY
        return made[-1]

    monkeypatch.setattr(patience.MlflowClient, "create_run", create_run)
    run = tracking.open_run("train_longtail", "x")
    assert len(made) == 1 and run.run_id == made[0].info.run_id
    run.finish()


def test_a_logged_model_whose_making_lost_its_answer_is_made_once_in_its_runs_experiment(client, tmp_path, monkeypatch):
    made, real = [], patience.MlflowClient.create_logged_model

    def create_logged_model(self, *args, **named):
        made.append(real(self, *args, **named))
        if len(made) == 1:
            raise AWAY
        return made[-1]

    monkeypatch.setattr(patience.MlflowClient, "create_logged_model", create_logged_model)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("")
    with tracking.open_run("train_longtail", "x") as run:
        model_id = registry._log(run, "taxon-x", tmp_path / "model", {"taxon.a": "b"}, {"accuracy": 0.5})
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    (found,) = client.search_logged_models(everywhere)
    assert (found.model_id, found.source_run_id, str(found.status)) == (model_id, run.run_id, "READY")
    assert found.experiment_id == client.get_experiment_by_name("taxon").experiment_id  # not that of `Default`


def test_tags_parameters_files_and_the_end_outlast_an_outage(client, monkeypatch):
    run = tracking.open_run("train_longtail", "x")
    for name in ("log_batch", "log_artifact", "set_terminated", "log_inputs"):
        real = getattr(patience.MlflowClient, name)
        left = [AWAY]

        def once(self, *args, _real=real, _left=left, **named):
            if _left:
                raise _left.pop()
            return _real(self, *args, **named)

        monkeypatch.setattr(patience.MlflowClient, name, once)
    run.tags({"taxon.a": 1})
    run.params({"b": 2})
    run.json([1], "c.json")
    run.dataset("d", "digest", "place", "training")
    run.finish()
    found = client.get_run(run.run_id)
    assert (found.data.tags["taxon.a"], found.data.params["b"], found.info.status) == ("1", "2", "FINISHED")
    assert [item.path for item in client.list_artifacts(run.run_id)] == ["c.json"]
    assert found.inputs.dataset_inputs[0].dataset.name == "d"


def test_long_names_and_values_are_cut_the_same_on_every_store(client):
    run = tracking.open_run("train_longtail", "n" * 400)
    run.tags({"k" * 300: "v" * 9000})
    run.params({"p" * 300: "v" * 9000})
    run.metrics({"m" * 300: 1.0}, 1)
    run.finish()
    found = client.get_run(run.run_id)
    assert len(found.info.run_name) == len(found.data.tags["mlflow.runName"]) == 250
    (tag,), (param,) = (
        [value for name, value in kept.items() if name[:9] in ("k" * 9, "p" * 9)] for kept in (found.data.tags, found.data.params)
    )
    assert (len(tag), len(param)) == (5000, 6000)
    (name,) = found.data.metrics
    assert len(name) == 250


@pytest.mark.parametrize(
    "name", ["per_class/a:b", "x/$5_to_$10", "x/../y", "/x", "x//y", "", "x/a,b", "x/50%", "x/日本 (b)", "x/\ny", "é" * 300]
)
def test_any_metric_name_becomes_one_that_the_store_takes(name):
    from mlflow.utils.validation import _validate_metric_name

    cleaned = names.key(name)
    _validate_metric_name(cleaned)
    assert len(cleaned) <= names.KEY and names.key(cleaned) == cleaned
    assert names.key(name + "?") != cleaned  # two names stay two


def test_a_good_metric_name_is_left_as_it_is():
    assert names.key("per_class/recall/leaf rust-2.0") == "per_class/recall/leaf rust-2.0"


def test_a_record_that_the_store_refuses_is_dropped_alone_and_said(client, capsys):
    run_id = client.create_run(client.get_experiment_by_name("taxon").experiment_id).info.run_id
    box = outbox.Outbox(client, run_id)
    with box.lock:
        box.pending.append(("bad?name", 1.0, 0, 5))
    box.put({f"good{i}": 1.0 for i in range(5)}, 1)
    assert box.close(timeout=30)
    assert len(client.get_run(run_id).data.metrics) == 5
    assert "refuses metric 'bad?name'" in capsys.readouterr().err
