"""A stage computes on the threads and the device that it was given."""

from types import SimpleNamespace

import pytest
import torch

from core.cores import usable
from core.stages import machine
from tests.core.stages.tiny import refused


@pytest.mark.parametrize("given", [0, 3])
def test_threads_are_those_given_or_all_usable_ones(given, monkeypatch):
    asked, before = [], torch.get_num_threads()
    monkeypatch.setattr(machine, "threadpool_limits", asked.append)
    try:
        assert machine.settle(SimpleNamespace(gpu="cpu", threads=given)) == torch.device("cpu")
        assert [torch.get_num_threads()] == asked == [given or usable()]
    finally:
        torch.set_num_threads(before)


def test_a_device_that_is_not_here_is_refused_before_threads_change(monkeypatch):
    monkeypatch.setattr(machine, "threadpool_limits", lambda *_: pytest.fail("changed"))
    assert "gpu = 'x'" in refused(lambda: machine.settle(SimpleNamespace(gpu="x", threads=1)))
