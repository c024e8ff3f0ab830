"""Tiny long-tailed images, made once, and places to train on them."""

import pytest

from tests.core.stages.longtail import tiny


@pytest.fixture(scope="session")
def longtail_images(tmp_path_factory):
    """Return a folder of tiny long-tailed images that nobody changes."""
    return tiny.make_images(tmp_path_factory.mktemp("images") / "glyphs")


@pytest.fixture
def place(tmp_path, monkeypatch, longtail_images) -> tiny.Workplace:
    """Return a place with an empty cache for tiny long-tail trainings."""
    return tiny.Workplace(tmp_path, monkeypatch, longtail_images)
