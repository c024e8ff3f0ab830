"""A long-tail training that takes a fraction of a second: 12 px glyphs, four classes of 12, 8, 5 and 3 images, class folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.stages.longtail import checks, train
from core.stages.longtail.config import LongtailTrainConfig
from tests.core.stages.tiny import CLASSES, glyph
from tests.memory_run import MemoryRun

COUNTS = {"train": (12, 8, 5, 3), "val": (4, 4, 3, 2), "test": (3, 3, 3, 2)}
EPOCH_OPTIONS = [f.name for f in dataclasses.fields(LongtailTrainConfig) if f.name.endswith(("_epoch", "_epoch1", "_epoch2"))]
NOTHING_SWITCHES = {option: -1 for option in EPOCH_OPTIONS}
# Every row of the schedule acts, one after the other, in seven epochs; the last has everything.
EVERY_SWITCH = {
    "epochs": 7,
    "warmup_epochs": 2,
    "mixup_decay_epoch1": 1,
    "stage2_epoch": 2,
    "cutmix_disable_epoch": 2,
    "mixup_decay_epoch2": 2,
    "smoothing_decay_epoch1": 3,
    "stage3_epoch": 3,
    "mixup_disable_epoch": 3,
    "disable_sampler_epoch": 3,
    "tail_focal_epoch": 4,
    "smoothing_decay_epoch2": 4,
    "lr_restart_epoch": 4,
    "progressive_resize_epoch": 4,
    "center_update_epoch": 5,
    "final_clean_epoch": 6,
    "drw_epoch": 5,
    "crt_epoch": 5,
    "balance_sampler": True,
    "use_cosine_classifier": True,
    "use_center_loss": True,
}


def make_images(root: Path, seed: int = 0, counts: dict[str, tuple[int, ...]] | None = None) -> Path:
    """Write `root/{train,val,test}/<class>/*.png` and return `root`."""
    rng = np.random.default_rng(seed)
    for part, numbers in (counts or COUNTS).items():
        for name, count in zip(CLASSES, numbers, strict=True):
            for i in range(count):
                (root / part / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(glyph(name, rng)).save(root / part / name / f"{i:02d}.png")
    return root


def config(root: Path, **options: Any) -> LongtailTrainConfig:
    """Return a checked configuration of a tiny training in which nothing switches unless asked for."""
    tiny = {
        "data_root": str(root),
        "backbone": "small_cnn",
        "pretrained": False,
        "image_size": 12,
        "progressive_image_size": 16,
        "epochs": 2,
        "warmup_epochs": 0,
        "batch_size": 8,
        "lr": 1e-3,
        "gpu": "cpu",
        "threads": 1,
        "num_workers": 1,
        "use_amp": False,
        "register": False,
        "log_interval": 0,
        "stage3_epoch": 0,
        "loss_type": "balanced_softmax",
        "balance_sampler": False,
    }
    return checks.check_training(LongtailTrainConfig(**NOTHING_SWITCHES | tiny | options))


def command_line(root: Path, **options: Any) -> list[str]:
    """Return the options of `train_longtail` for such a training, which registers its model."""
    made = config(root, register=True, **options)
    given = {f.name: getattr(made, f.name) for f in dataclasses.fields(made) if getattr(made, f.name) != f.default}
    return [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in given.items()]


class Workplace:
    """A folder of tiny images, a cache, and long-tail trainings that start there."""

    def __init__(self, folder: Path, monkeypatch: Any, images: Path):
        self.folder, self.images, self.count = folder, images, 0
        monkeypatch.setenv("TAXON_CACHE", str(folder / "cache"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/never.db")
        monkeypatch.setattr("core.stages.inputs.draw_curves", lambda *_: None)
        monkeypatch.setattr("core.tracking.stage.find_unfinished", lambda *_: None)
        monkeypatch.setattr("core.plots.figure.save", lambda _figure, path: path.write_bytes(b""))

    def run(self) -> MemoryRun:
        """Return a run of its own."""
        self.count += 1
        place = self.folder / f"run{self.count}"
        place.mkdir()
        return MemoryRun(place)

    def config(self, **options: Any) -> LongtailTrainConfig:
        """Return a tiny configuration on this place's images."""
        return config(Path(options.pop("images", self.images)), **options)

    def training(self, **options: Any) -> train.LongtailTraining:
        """Return a training that has not begun."""
        return train.LongtailTraining(train.prepare(self.config(**options)), self.run())

    def fitted(self, **options: Any) -> train.LongtailTraining:
        """Return a training after its last epoch, not published."""
        training = self.training(**options)
        training.fit()
        return training

    def publish(self, **options: Any) -> tuple[dict[str, Any], MemoryRun]:
        """Train and publish; return the summary and the run."""
        run = self.run()
        with run.ended:
            return train.train(self.config(**options), run), run


def changed(one: LongtailTrainConfig, **options: Any) -> LongtailTrainConfig:
    """Return a configuration with other values, unchecked."""
    return dataclasses.replace(one, **options)
