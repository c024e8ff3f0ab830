"""A place with tiny posts for the hardening tools."""

import pytest

from tests.core.stages.posts.hardening import Workplace


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Workplace:
    """Return tiny posts, an empty cache and a fake classifier."""
    return Workplace(tmp_path, monkeypatch)
