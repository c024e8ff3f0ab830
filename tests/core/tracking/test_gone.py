"""A run, or its experiment, deleted while it is worked on is no outage: it is said at once, with the way back."""

from __future__ import annotations

import time

import pytest

from core.errors import Gone
from core.tracking import outbox
from core.tracking import run as tracking


@pytest.fixture
def run(client):
    return tracking.open_run("train_longtail", "deleted")


def wait_until_noticed(run) -> None:
    """Give the sender a moment with the metrics of one epoch; the next epoch's raise."""
    run.metrics({"loss": 1.0}, 1)
    end = time.monotonic() + 20
    while run.outbox.gone is None and time.monotonic() < end:
        time.sleep(0.01)


def test_the_next_epoch_of_a_deleted_run_raises_with_the_way_back(client, run):
    client.delete_run(run.run_id)
    wait_until_noticed(run)
    with pytest.raises(Gone, match=rf"deleted.*mlflow runs restore --run-id {run.run_id}"):
        run.metrics({"loss": 0.5}, 2)
    began = time.monotonic()
    run.finish("FAILED", "deleted")
    assert time.monotonic() - began < 5  # no wait for a store that has answered


def test_a_deleted_experiment_is_named(client, run):
    client.delete_experiment(run.experiment_id)
    wait_until_noticed(run)
    with pytest.raises(Gone, match=rf"experiment 'taxon'.*mlflow experiments restore --experiment-id {run.experiment_id}"):
        run.metrics({"loss": 0.5}, 2)
    run.finish("FAILED")


@pytest.mark.parametrize("work", [lambda run: run.tags({"a": 1}), lambda run: run.params({"a": 1}), lambda run: run.finish()])
def test_whatever_else_is_told_to_a_deleted_run_raises(client, run, work):
    client.delete_run(run.run_id)
    with pytest.raises(Gone, match="mlflow runs restore"):
        work(run)
    run._lock.__exit__(None, None, None)


def test_no_child_is_made_below_a_deleted_run(client, run):
    client.delete_run(run.run_id)
    with pytest.raises(Gone, match="mlflow runs restore"):
        tracking.open_child(run.run_id, "train 0-5", "train_superclass", {})
    run.finish("FAILED")


def test_metrics_of_a_deleted_run_wait_for_its_restoration(client, run, capsys):
    client.delete_run(run.run_id)
    wait_until_noticed(run)
    run.finish("FAILED")
    assert run.outbox.spool.exists() and "did not answer" not in capsys.readouterr().err
    assert outbox.flush_spools(client) == 0 and run.outbox.spool.exists()
    client.restore_run(run.run_id)
    assert outbox.flush_spools(client) == 1 and not run.outbox.spool.exists()


def test_metrics_of_a_run_that_its_store_has_no_more_are_dropped(client, run):
    client.delete_run(run.run_id)
    wait_until_noticed(run)
    run.finish("FAILED")
    client._tracking_client.store._hard_delete_run(run.run_id)  # as `mlflow gc` does
    assert outbox.flush_spools(client) == 0
    assert not run.outbox.spool.exists()


def test_a_run_removed_for_good_is_said_to_be(client, run):
    client.delete_run(run.run_id)
    client._tracking_client.store._hard_delete_run(run.run_id)
    wait_until_noticed(run)
    with pytest.raises(Gone, match="no longer in the tracking store"):
        run.metrics({"loss": 0.5}, 2)
    run.finish("FAILED")
    assert not run.outbox.spool.exists()
