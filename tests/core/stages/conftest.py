"""Tiny images, one trained checkpoint, one clustering: made once for all stage tests."""

import dataclasses

import numpy as np
import pytest

from core.clustering import pseudo_labels
from core.stages.discovery import ssddbc
from core.stages.discovery.config import SsddbcConfig
from tests.core.stages import tiny
from tests.memory_run import MemoryRun


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Return a folder of tiny images that nobody changes."""
    return tiny.make_images(tmp_path_factory.mktemp("images") / "glyphs")


@pytest.fixture
def place(tmp_path, monkeypatch, images) -> tiny.Workplace:
    """Return a place with an empty cache for tiny trainings."""
    return tiny.Workplace(tmp_path, monkeypatch, images)


@pytest.fixture(scope="session")
def shared(tmp_path_factory, images):
    """Return (folder, summary, run, configuration) of one published tiny training of 2 epochs, its features stored."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = tiny.Workplace(tmp_path_factory.mktemp("shared"), monkeypatch, images)
        summary, run = made.publish(save_features_and_exit=True)
        return run.place, summary, run, made.config(save_features_and_exit=True)


@pytest.fixture(scope="session")
def clustered(shared, tmp_path_factory):
    """Return (summary, run) of the clustering of the shared training."""
    run = MemoryRun(tmp_path_factory.mktemp("clustered"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAXON_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("core.plots.figure.save", lambda _figure, path: path.write_bytes(b""))
        given = SsddbcConfig(ckpt_path=str(shared[0]), gpu="cpu", k_min=3, k_max=4, density_min=40, density_max=50, density_step=10)
        return ssddbc.run(given, run), run


@pytest.fixture(scope="session")
def pseudo_path(clustered, tmp_path_factory) -> str:
    """Return a file of pseudo labels in which a third of the core points are not agreed on."""
    summary, run = clustered
    found = pseudo_labels.read(run.place / summary["pseudo_labels"])
    path = tmp_path_factory.mktemp("pseudo") / "labels.npz"
    pseudo_labels.write(path, dataclasses.replace(found, agreed_mask=found.core_mask & (np.arange(len(found.labels)) % 3 > 0)))
    return str(path)
