"""One thread for the tests' tiny computations: two that wait for each other on a busy machine take a hundred times as long."""

import gc
import os
import sqlite3
import sys

import hypothesis
import pytest
import sqlalchemy
import torch

hypothesis.settings.register_profile("same", derandomize=True, deadline=None)  # the same examples each time: a draw of luck fails nobody
hypothesis.settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    """Let the collector pass over the libraries that are imported by now: millions of objects, a fifth of a second each time."""
    gc.collect()
    gc.freeze()


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
def _unsynced(connection, _record):
    """Leave it to the system when SQLite's files reach the disk: no test pulls the plug, and each of thousands of commits waits for it."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


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
