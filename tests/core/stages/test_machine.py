"""A stage computes on the threads and the device that it was given."""

import pytest
import torch

from core.stages import machine
from tests.core.stages.tiny import refused


def test_both_pools_have_the_threads_that_are_given(monkeypatch):
    asked, before = [], torch.get_num_threads()
    monkeypatch.setattr(machine, "threadpool_limits", asked.append)
    try:
        assert machine.settle("cpu", 3) == torch.device("cpu")
        assert [torch.get_num_threads()] == asked == [3]
    finally:
        torch.set_num_threads(before)


def test_a_device_that_is_not_here_is_refused_before_threads_change(monkeypatch):
    monkeypatch.setattr(machine, "threadpool_limits", lambda *_: pytest.fail("changed"))
    assert "gpu = 'x'" in refused(lambda: machine.settle("x", 1))
