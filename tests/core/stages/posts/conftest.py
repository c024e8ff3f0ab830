"""Tiny posts, for trainings on them and for the hardening tools."""

import pytest

from core.stages.posts import features
from tests.core.stages.posts import tiny_posts
from tests.core.stages.posts.hardening import Workplace


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return the folder of tiny posts that a file's tests share."""
    return tiny_posts.write(tmp_path_factory.mktemp("posts") / "root")


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Return a work folder, and let no feature be there but those of the test."""
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(features, "_memory", {})
    return tmp_path / "work"


@pytest.fixture
def undrawn(monkeypatch):
    """Publish without a picture and without asking a store."""
    monkeypatch.setattr("core.stages.inputs.draw_curves", lambda *_: None)
    monkeypatch.setattr("core.tracking.stage.find_unfinished", lambda *_: None)
    monkeypatch.setattr("core.plots.figure.save", lambda _figure, path: path.write_bytes(b""))


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Workplace:
    """Return tiny posts, an empty cache and a fake classifier."""
    return Workplace(tmp_path, monkeypatch)
