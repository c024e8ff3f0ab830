"""How long a command took is known of the very same command, on this machine, where it ended well."""

import dataclasses

import pytest

from core.stages import launch, took
from core.stages.discovery.config import TrainConfig

ASKED = TrainConfig(dataset="digits", seed=3)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Keep what other tests' commands took out of sight."""
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))


def test_the_same_command_is_told_its_last_time():
    assert took.last("train_superclass", ASKED) is None
    assert launch.announced("train_superclass", ASKED) == "train_superclass on digits (seed=3)"
    for seconds in (12.0, 300.4):
        took.remember("train_superclass", ASKED, seconds)
    assert took.last("train_superclass", ASKED) == 300.4
    assert launch.announced("train_superclass", ASKED) == "train_superclass on digits (seed=3); took 5 min here last time"
    assert took.last("pseudo_pipeline", ASKED) is None and took.last("train_superclass", dataclasses.replace(ASKED, seed=4)) is None


def test_what_cannot_be_read_or_written_is_no_error(monkeypatch, tmp_path):
    took.remember("train_superclass", ASKED, 7.0)
    (file,) = (took.cache_home() / "took").iterdir()
    file.write_text("soon")
    assert took.last("train_superclass", ASKED) is None
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(took, "cache_home", lambda: tmp_path / "file")
    took.remember("train_superclass", ASKED, 7.0)
    assert took.last("train_superclass", ASKED) is None
