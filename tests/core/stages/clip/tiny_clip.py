"""SuperCLIP trainings that take a fraction of a second: 12 px glyphs of four classes, small towers, sentences of a few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.stages.clip import train
from core.stages.clip.config import TrainClipConfig
from tests.core.stages import tiny
from tests.memory_run import MemoryRun

COUNTS = {"bar": 14, "cross": 10, "dot": 8, "ring": 6}
SENTENCES = {
    "bar": "a thick bar across the middle",
    "cross": ["two thin lines that cross", "a cross"],
    "dot": ["a filled dot", "a small round spot", "one disc"],
    "ring": "a hollow ring",
}


def make_images(root: Path, counts: dict[str, int] = COUNTS, seed: int = 0) -> Path:
    """Write `root/<class>/*.png` and return `root`."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(tiny.glyph(name, rng)).save(root / name / f"{i // 2:02d}_{i % 2}.png")
    return root


def write_sentences(path: Path, sentences: dict[str, Any] | None = None) -> Path:
    """Write a class_texts_file and return its path."""
    path.write_text(json.dumps(SENTENCES if sentences is None else sentences))
    return path


TINY = {
    "image_encoder_name": "small_cnn",
    "text_encoder_name": "clip:small-32x1",
    "embed_dim": 16,
    "context_length": 12,
    "img_size": 16,
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "gpu": "cpu",
    "use_amp": False,
    "threads": 1,
    "num_workers": 1,
    "log_interval": 0,
    "register": False,
    "zero_shot": False,
    "linear_probe": False,
    "few_shot": False,
    "wise_ft": False,
}


class Workplace:
    """A folder of tiny images, a cache, and trainings that start there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, images: Path):
        self.folder, self.images, self.count = folder, images, 0
        self.texts = write_sentences(folder / "sentences.json")
        monkeypatch.setenv("TAXON_CACHE", str(folder / "cache"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/never.db")
        monkeypatch.setattr("core.stages.inputs.draw_curves", lambda *_: None)
        monkeypatch.setattr("core.tracking.stage.find_unfinished", lambda *_: None)
        monkeypatch.setattr("core.tracking.stage.find_finished", lambda *_: None)

    def run(self) -> MemoryRun:
        """Return a run of its own."""
        self.count += 1
        place = self.folder / f"run{self.count}"
        place.mkdir()
        return MemoryRun(place)

    def config(self, **options: Any) -> TrainClipConfig:
        """Return a tiny configuration on this place's images."""
        return TrainClipConfig(**TINY | {"data_dir": str(self.images), "class_texts_file": str(self.texts)} | options)

    def training(self, **options: Any) -> train.ClipTraining:
        """Return a training that has not begun."""
        return train.ClipTraining(train.prepare(self.config(**options)), self.run())

    def fitted(self, **options: Any) -> train.ClipTraining:
        """Return a training after its last epoch, not published."""
        training = self.training(**options)
        training.fit()
        return training

    def publish(self, **options: Any) -> tuple[dict[str, Any], MemoryRun]:
        """Train and publish; return the summary and the run."""
        run = self.run()
        with run.ended:
            return train.train(self.config(**options), run), run


def children(client, parent: str) -> dict[str, Any]:
    """Return the child runs of a run by name."""
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    experiment = client.get_experiment_by_name("taxon").experiment_id
    found = client.search_runs([experiment], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'")
    return {child.info.run_name: child for child in found}


def folder_of(client, run_id: str) -> Path:
    """Return the folder of a run's artifacts."""
    from core.tracking.uri import local_artifacts

    return local_artifacts(client.get_run(run_id).info.artifact_uri)
