"""Tiny images, made once for all SuperCLIP tests, and a place to train in."""

import pytest

from core import config as configuration
from core.stages.clip import run
from core.stages.clip.config import TrainClipConfig
from core.tracking import run as tracking
from tests.core.stages.clip import tiny_clip


@pytest.fixture(scope="session")
def clip_images(tmp_path_factory):
    """Return a folder of glyphs in class folders."""
    return tiny_clip.make_images(tmp_path_factory.mktemp("clip") / "glyphs")


@pytest.fixture
def clip_place(tmp_path, monkeypatch, clip_images):
    """Return a place for tiny SuperCLIP trainings with an empty cache."""
    return tiny_clip.Workplace(tmp_path, monkeypatch, clip_images)


@pytest.fixture
def folded(client, tmp_path, monkeypatch, clip_images):
    """Return a function that cross-validates in this store and returns (summary, parent run id)."""
    monkeypatch.setattr(
        "core.plots.figure.save", lambda _figure, path: (path.parent.mkdir(parents=True, exist_ok=True), path.write_bytes(b""))
    )
    texts = tiny_clip.write_sentences(tmp_path / "texts.json")

    def do(**options):
        given = tiny_clip.TINY | {"data_dir": str(clip_images), "class_texts_file": str(texts), "use_cv": True, "n_splits": 2, "epochs": 1}
        config = configuration.parse(TrainClipConfig, configuration.to_argv(TrainClipConfig(**given | options)), "train_clip")
        with tracking.open_run("train_clip", "folds") as opened:
            return run.run(config, opened), opened.run_id

    return do
