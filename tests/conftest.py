"""One thread for the tests' tiny computations: two that wait for each other on a busy machine take a hundred times as long."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)
