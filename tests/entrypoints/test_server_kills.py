"""A tracking server that is killed at any moment: the command waits for it, and the store tells the same as after a quiet run.

The long version is tests/benchmarks/server_kills.py.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from entrypoints import train_longtail
from tests.core.stages.longtail import tiny
from tests.entrypoints.served_place import Kill, ServedPlace, Zygote, after, differing, free_port

pytestmark = pytest.mark.slow

SEED = 20261127


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """Return what servers are forked from."""
    made = Zygote()
    yield made
    made.close()


@pytest.fixture
def place(tmp_path, zygote, own_process_state, monkeypatch) -> Iterator[ServedPlace]:
    """Return a place with a server, which commands that are called in this process use."""
    made = ServedPlace(tmp_path / "place", port=free_port(), zygote=zygote)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "TAXON_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, made.env[name])
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    monkeypatch.setenv("TAXON_STORE_PATIENCE", "120")
    yield made
    made.kill()


def trained(place: ServedPlace, store: Path, images: Path, kills: Sequence[Kill] = ()) -> tuple[dict[str, Any], list[float]]:
    """Train in an empty store whose server is killed meanwhile; return what it tells, and when the kills were."""
    options = tiny.command_line(images)
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir()
    shutil.copy(store, place.folder / "mlflow.db")
    place.serve()
    with place.killed(kills) as moments:
        assert train_longtail.main(options) == 0
    found = place.told()
    place.kill()
    return found, moments


def test_a_server_that_is_killed_again_and_again_holds_the_same_in_the_end(place, store_template, tmp_path):
    images = tiny.make_images(tmp_path / "glyphs")
    expected, _moments = trained(place, store_template, images)
    (run,) = expected["runs"]
    assert run["status"] == "FINISHED" and run["files"]["checkpoints/checkpoints.json"] == "whole"
    logged = [model[1:4] for model in expected["models"] if model[0] == "logged"]
    assert logged == [("taxon", "taxon-longtail-glyphs", "READY")]  # not in the experiment `Default`
    drawn = random.Random(SEED)
    kills = [after(drawn.uniform(0.1, 0.8), drawn.uniform(0.5, 2.0)) for _ in range(3)]
    found, moments = trained(place, store_template, images, kills)
    assert len(moments) >= 2
    assert differing(found, expected) == []
