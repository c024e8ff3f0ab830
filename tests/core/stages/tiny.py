"""A training that takes a fraction of a second: 12 px glyphs of four classes in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.stages.discovery import checks, train
from core.stages.discovery.config import TrainConfig
from core.training import recipes
from core.training import state as states
from tests.memory_run import MemoryRun

CLASSES = ("bar", "cross", "dot", "ring")  # ring is novel
COLOURS = ((200, 60, 60), (60, 200, 60), (70, 70, 220), (225, 60, 225))
TRAIN, TEST = 15, 5


def glyph(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return a noisy (12, 12, 3) picture of a class."""
    rows, columns = np.mgrid[:12, :12] - 5.5 + rng.uniform(-1, 1, (2, 1, 1))
    distance = np.hypot(rows, columns)
    masks = {
        "bar": np.abs(rows) < 2,
        "cross": (np.abs(rows) < 1.2) | (np.abs(columns) < 1.2),
        "dot": distance < 3,
        "ring": (distance > 3) & (distance < 5),
    }
    colour = np.array(COLOURS[CLASSES.index(kind)]) + rng.integers(-30, 30, 3)
    picture = np.where(masks[kind][..., None], colour, 40) + rng.normal(0, 12, (12, 12, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def make_images(root: Path, seed: int = 0) -> Path:
    """Write `root/{train,test}/<class>/*.png` and return `root`."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", TRAIN), ("test", TEST)):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(glyph(name, rng)).save(root / part / name / f"{i:02d}.png")
    return root


NETWORK: dict[str, Any] = {
    "model_name": "small_cnn",
    "image_size": 12,
    "grad_from_block": 0,
    "head_hidden": 16,
    "head_bottleneck": 8,
    "head_out": 8,
    "optimizer": "adamw",
    "lr": 1e-3,
    "batch_size": 16,
    "temperature": 0.3,
    "gpu": "cpu",
    "precision": "fp32",
    "threads": 1,
}


def config(root: Path, **options: Any) -> TrainConfig:
    """Return a resolved and checked configuration of a tiny training."""
    data = {"dataset": "folder", "data_root": str(root), "novel_classes": "ring"}
    tiny = NETWORK | data | {"epochs": 2, "update_interval": 2, "num_workers": 1}
    return checks.check_training(recipes.resolve(TrainConfig(**tiny | options)))


class Workplace:
    """A folder of tiny images, a cache, and trainings that start there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, images: Path):
        self.folder, self.images, self.count = folder, images, 0
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

    def config(self, **options: Any) -> TrainConfig:
        """Return a tiny configuration on this place's images."""
        return config(self.images, **options)

    def fitted(self, **options: Any) -> train.Training:
        """Return a training after its last epoch, not published."""
        training = train.Training(self.config(**options), self.run())
        training.fit()
        return training

    def publish(self, **options: Any) -> tuple[dict[str, Any], MemoryRun]:
        """Train and publish; return the summary and the run."""
        run = self.run()
        with run.ended:
            return train.train(self.config(**options), run), run


def refused(call: Callable[[], Any]) -> str:
    """Return the one line with which a UserError refuses."""
    from core.errors import UserError

    with pytest.raises(UserError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text and "Traceback" not in text
    return text


def kept_in(place: Path) -> str:
    """Return the epochs whose checkpoints a run's folder holds; with a star those that a training can go on from."""
    kept = [states.load_checkpoint(place / "checkpoints" / name) for name in states.read_index(place / "checkpoints")]
    return " ".join(f"{state.epoch}{'' if state.content else '*'}" for state in kept)
