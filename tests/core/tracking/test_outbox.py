"""Metrics arrive once each, finite, and not at all at the expense of training."""

from __future__ import annotations

import json
import math
import threading

import pytest
from mlflow.exceptions import MlflowException

from core.tracking import outbox
from core.tracking.outbox import Outbox, flush_spools, stored


class Flaky:
    """Wraps a client; its log_batch fails while `down`, and waits for `gate`."""

    def __init__(self, client):
        self.client, self.down, self.calls, self.gate = client, False, 0, threading.Event()
        self.gate.set()

    def log_batch(self, run_id, metrics):
        self.calls += 1
        self.gate.wait()
        if self.down:
            raise MlflowException("the store is down")
        self.client.log_batch(run_id, metrics=metrics)


@pytest.fixture
def run_id(client) -> str:
    return client.create_run(client.get_experiment_by_name("taxon").experiment_id).info.run_id


def history(client, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run_id, key))


def test_each_metric_and_step_is_stored_once(client, run_id):
    box = Outbox(client, run_id)
    for step in (0, 1, 1, 2):
        box.put({"loss": float(step)}, step)
    assert box.close()
    box = Outbox(client, run_id, known=stored(client, run_id))
    for step in (1, 2, 3):
        box.put({"loss": float(step)}, step)
    assert box.close()
    assert history(client, run_id, "loss") == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]
    assert not box.spool.exists()


def test_what_is_not_finite_or_not_applicable_is_never_stored(client, run_id):
    box = Outbox(client, run_id)
    box.put({"nan": math.nan, "inf": math.inf, "low": -math.inf, "new": None, "good": 1.0}, 0)
    box.put({"nan": math.nan}, 1)
    assert box.close()
    assert client.get_run(run_id).data.metrics == {"good": 1.0}


def test_putting_does_not_wait_for_a_store_that_hangs(client, run_id):
    slow = Flaky(client)
    slow.gate.clear()
    box = Outbox(slow, run_id)
    for step in range(50):
        box.put({"loss": 1.0}, step)  # returns although nothing can be sent
    assert stored(client, run_id) == set()
    assert len(box.spool.read_text().splitlines()) == 50
    slow.gate.set()
    assert box.close()
    assert len(stored(client, run_id)) == 50


def test_nothing_is_lost_while_the_store_is_down(client, run_id):
    flaky = Flaky(client)
    flaky.down = True
    box = Outbox(flaky, run_id)
    box.put({"loss": 1.0}, 1)
    assert not box.flush(timeout=0.2)
    flaky.down = False
    box.put({"loss": 2.0}, 2)
    assert box.close()
    assert history(client, run_id, "loss") == [(1, 1.0), (2, 2.0)]


def left_unsent(client, run_id: str, steps: int = 3):
    """Leave a spool behind, as a process does that ends while the store is down."""
    flaky = Flaky(client)
    flaky.down = True
    box = Outbox(flaky, run_id)
    for step in range(steps):
        box.put({"loss": float(step)}, step)
    assert not box.close(timeout=0.2)
    assert box.spool.exists()
    return box.spool


def test_the_next_process_sends_what_was_left_and_ignores_half_a_line(client, run_id):
    spool = left_unsent(client, run_id)
    with open(spool, "a") as file:
        file.write('["loss", 9.0, 9')
    assert flush_spools(client) == 3
    assert flush_spools(client) == 0
    assert history(client, run_id, "loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert not spool.exists()


def test_what_is_stored_already_is_not_sent_again(client, run_id):
    spool = left_unsent(client, run_id)
    outbox.send(client, run_id, [("loss", 0.0, 0, 5)])
    assert flush_spools(client) == 2
    assert history(client, run_id, "loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert not spool.exists()


def test_a_reopened_outbox_sends_what_its_predecessor_left(client, run_id):
    spool = left_unsent(client, run_id)
    with open(spool, "a") as file:
        file.write('["loss", 9.0, 9')
    box = Outbox(client, run_id, known=stored(client, run_id))
    box.put({"loss": 1.0}, 1)
    box.put({"loss": 3.0}, 3)
    assert box.close()
    assert [step for step, _ in history(client, run_id, "loss")] == [0, 1, 2, 3]


def test_half_a_line_does_not_swallow_the_next_record(client, run_id):
    spool = left_unsent(client, run_id, steps=1)
    with open(spool, "a") as file:
        file.write('["loss", 9.0, 9')
    left = left_unsent(client, run_id, steps=2)
    assert [json.loads(line)[2] for line in left.read_text().splitlines()] == [0, 1]


def test_a_run_of_another_store_keeps_its_spool(client):
    spool = outbox.spool_folder() / "0123456789abcdef.jsonl"
    spool.write_text('["loss", 1.0, 0, 5]\n')
    assert flush_spools(client) == 0
    assert spool.exists()


def test_a_spool_that_cannot_be_written_does_not_end_the_training(client, run_id, capsys):
    box = Outbox(client, run_id)
    box.spool.mkdir()  # opening it for writing fails, as on a full disk
    box.put({"loss": 1.0}, 1)
    assert box.flush()
    assert history(client, run_id, "loss") == [(1, 1.0)]
    assert capsys.readouterr().err.count("\n") == 1
    box.spool.rmdir()
    box.close()


def test_an_unexpected_error_of_the_store_does_not_end_the_sender(client, run_id, monkeypatch):
    failing = Flaky(client)
    errors = iter([ValueError("odd")])

    def log_batch(run_id, metrics):
        for error in errors:
            raise error
        client.log_batch(run_id, metrics=metrics)

    monkeypatch.setattr(failing, "log_batch", log_batch)
    box = Outbox(failing, run_id)
    box.put({"loss": 1.0}, 1)
    assert box.close(timeout=30)
    assert history(client, run_id, "loss") == [(1, 1.0)]
