"""What a stage process tells its pipeline, whichever way it ends."""

from __future__ import annotations

import os
import signal
from multiprocessing import Pipe

import pytest

from core.errors import UserError
from core.stages import server
from core.stages.server import Request
from core.stages.stage import Stage
from core.tracking import run as tracking

HERE = "tests.core.stages.test_server"


def work(config, run):
    run.forward({"loss": 0.5}, 1)


def tell_surroundings(config, run):
    run.tags({"where": os.environ.get("TAXON_TEST_WHERE", "")})


def refuse(config, run):
    raise UserError("ckpt_path = 'x' does not exist")


def interrupt(config, run):
    raise KeyboardInterrupt


def break_down(config, run):
    raise ZeroDivisionError("a bug")


@pytest.fixture
def parent(client):
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    run = tracking.open_run("pseudo_pipeline", "parent")
    yield run
    run.finish()
    for number, handler in signals.items():
        signal.signal(number, handler)


def carry_out(stage: str, parent_run_id: str):
    """Run the stage process's side here, then the pipeline's; return its answer and the metrics that came."""
    receiver, sender = Pipe(duplex=False)
    request = Request(
        Stage("train_superclass", object, f"{HERE}:{stage}"), None, parent_run_id, "train 0-1", {"taxon.data": "digits"}, "key", 0.0
    )
    server._child(request, sender)
    sender.close()
    metrics: list[tuple[dict[str, float], int]] = []
    return server._listen(receiver, request, lambda values, step: metrics.append((values, step))), metrics


def child(client):
    (found,) = client.search_runs([client.get_experiment_by_name("taxon").experiment_id], "tags.taxon.stage_key = 'key'")
    return found


def test_a_finished_stage_gives_its_run_and_its_metrics(client, parent):
    run_id, metrics = carry_out("work", parent.run_id)
    assert metrics == [({"loss": 0.5}, 1)]
    assert (child(client).info.run_id, child(client).info.status) == (run_id, "FINISHED")
    assert child(client).data.tags["mlflow.parentRunId"] == parent.run_id


@pytest.mark.parametrize(
    ("stage", "error", "says", "status"),
    [
        ("refuse", UserError, "^ckpt_path = 'x' does not exist$", "FAILED"),
        ("interrupt", KeyboardInterrupt, None, "KILLED"),
        ("break_down", RuntimeError, "stage 'train 0-1' failed:\n(.|\n)*ZeroDivisionError: a bug", "FAILED"),
    ],
)
def test_a_stages_error_reaches_the_pipeline_as_what_it_is(client, parent, stage, error, says, status):
    with pytest.raises(error, match=says):
        carry_out(stage, parent.run_id)
    assert child(client).info.status == status


def test_a_stage_that_cannot_open_its_run_says_why_instead_of_out_of_memory(client, parent):
    with pytest.raises(RuntimeError, match="MlflowException"):
        carry_out("work", "no such run")


def test_a_stage_that_dies_without_a_word_was_killed():
    receiver, sender = Pipe(duplex=False)
    sender.close()
    request = Request(Stage("", object, ""), None, "", "train 0-1", {}, "", 0.0)
    with pytest.raises(UserError, match=r"stage 'train 0-1' was killed .* run the same command again"):
        server._listen(receiver, request, lambda *_: None)


def test_a_stage_works_in_the_environment_of_its_pipeline_and_not_of_the_fork_server(client, parent, monkeypatch):
    stage = Stage("train_superclass", object, f"{HERE}:tell_surroundings")
    stages = server.StageServer([stage])
    for where in ("first", "second"):  # the fork server lives on from the first to the second
        monkeypatch.setenv("TAXON_TEST_WHERE", where)
        request = Request(stage, None, parent.run_id, "train 0-1", {}, where, 0.0)
        run_id = stages.run(request, lambda values, step: None)
        assert client.get_run(run_id).data.tags["where"] == where
