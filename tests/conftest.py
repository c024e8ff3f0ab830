"""One thread for the tests' tiny computations: two that wait for each other on a busy machine take a hundred times as long."""

import os
import sys

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("same", derandomize=True, deadline=None)  # the same examples each time: a draw of luck fails nobody
hypothesis.settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _served_files():
    """Let models that tests load open the tests' own images by path; what a server opens by itself is tested where it is decided."""
    before = os.environ.get("TAXON_SERVE_IMAGES")
    os.environ["TAXON_SERVE_IMAGES"] = "/"
    yield
    if before is None:
        del os.environ["TAXON_SERVE_IMAGES"]
    else:
        os.environ["TAXON_SERVE_IMAGES"] = before


@pytest.fixture(autouse=True)
def _own_modules():
    """Keep `sys.path`: MLflow puts the code of a model that it loads first, and a process spawned later would import that one's `core`."""
    before = list(sys.path)
    yield
    sys.path[:] = before
