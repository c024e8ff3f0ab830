"""A family whose training takes milliseconds and leaves checkpoints: for tests of the study runner, importable by worker processes.

python -m tests.tuning.toy --n_trials=40 --storage=...
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any

import optuna

from core import digest
from core.config import ConfigFile, machine, option
from core.errors import UserError
from core.places import cache_home
from core.stages.execute import Job
from core.stages.launch import launch
from core.stages.stage import Stage
from core.tracking import stage
from core.tracking.recorder import Recorder
from tuning.config import TuneOptions
from tuning.runner import plan, run_studies
from tuning.space import Choice, Range, Space


@dataclass(frozen=True)
class ToyOptions:
    """What the toy's training reads."""

    data: str = option("toy", "what is trained on; part of the data digest")
    offset: float = option(0.0, "added to every value")
    epochs: int = option(4, "epochs")
    pause: float = machine(0.0, "seconds an epoch takes")
    broken: str = option("", "when x is above 0.5: nan, error, mistake, or kill (once, after epoch 2)")


@dataclass(frozen=True)
class ToyConfig(ToyOptions, ConfigFile):
    """Train the toy."""

    x: float = option(-1.0, "best at 0.3")
    depth: int = option(-1, "best at 2")
    kind: str = option("a", "a is better than b")


@dataclass(frozen=True)
class TuneToyConfig(TuneOptions, ToyOptions):
    """Search x and depth of the toy."""


def train(config: ToyConfig, run: Recorder) -> dict[str, Any]:
    """Train: each epoch gets nearer to the value that x and depth deserve; epochs that a checkpoint holds are not trained again."""
    folder = stage.work_folder(digest.of_json([config.data, config.x, config.depth, config.kind]))
    checkpoint = folder / "checkpoints" / "epoch.json"
    checkpoint.parent.mkdir(exist_ok=True)
    history = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
    for epoch, value in enumerate(history, 1):
        _tell(run, epoch, value)
    for epoch in range(len(history) + 1, config.epochs + 1):
        time.sleep(config.pause)
        _trained(run, epoch)
        history.append(_value(config, epoch))
        checkpoint.with_suffix(".tmp").write_text(json.dumps(history))
        checkpoint.with_suffix(".tmp").replace(checkpoint)
        _tell(run, epoch, history[-1])
    summary = {"epoch": config.epochs, "metrics": {"val/toy": history[-1], "test/accuracy": 1.0}}
    run.tags({stage.KEY_TAG: "toy", "taxon.best_checkpoint": "checkpoints/epoch.json"})
    stage.publish(run, folder, summary)
    stage.clear(folder)
    return summary


def begin(config: ToyConfig) -> Job:
    """Prepare a trial."""
    return Job("", lambda run, _unfinished: train(config, run))


def _value(config: ToyConfig, epoch: int) -> float:
    if config.x > 0.5 and config.broken == "nan":
        return float("nan")
    if config.x > 0.5 and config.broken == "error":
        raise RuntimeError("the toy broke")
    if config.x > 0.5 and config.broken == "mistake":
        raise UserError("loss L_total is not finite")
    if config.broken == "kill" and epoch == 3 and not (cache_home() / "killed").exists():
        (cache_home() / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    deserved = config.offset - (config.x - 0.3) ** 2 - 0.1 * abs(config.depth - 2) - (config.kind == "b")
    return deserved - 1 / epoch


def _tell(run: Recorder, epoch: int, value: float) -> None:
    run.metrics({"val/toy": value}, epoch)
    run.forward({"val/toy": value}, epoch)


def _trained(run: Recorder, epoch: int) -> None:
    """Note every epoch that is really trained: a continued trial trains none twice."""
    with open(cache_home() / "trained", "a") as file:
        file.write(f"{run.run_id} {epoch}\n")


def prepare(config: ToyConfig) -> ToyConfig:
    """Check the toy's configuration."""
    if config.epochs < 1:
        raise UserError(f"epochs = {config.epochs}; train for at least 1 epoch")
    return config


SPACE = Space(
    name="toy",
    stage=Stage("train_toy", ToyConfig, "tests.tuning.toy:train", begin="tests.tuning.toy:begin"),
    ranges=lambda config: {"x": Range(0.0, 1.0), "depth": Range(1, 4, whole=True)},
    also=lambda config: {"kind": Choice(("a", "b"))},
    grid={"x": (0.1, 0.3, 0.9), "depth": (1, 2)},
    metrics={"toy": lambda metrics: metrics["val/toy"], "absent": lambda metrics: metrics["val/tooy"]},
    prepare=prepare,
    inputs=lambda config: {"data": digest.of_json(config.data)},
)


def tune(config: TuneToyConfig, run: Recorder) -> dict[str, Any]:
    """Run the study."""
    return run_studies([plan(SPACE, config, config.data)], run)


def main(argv: list[str] | None = None) -> int:
    """Run the worker; return its exit code."""
    return launch(Stage("tune_toy", TuneToyConfig, "tests.tuning.toy:tune"), argv)


def load(storage: str, name: str) -> optuna.Study:
    """Load a study for looking at it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=name, storage=storage)


if __name__ == "__main__":
    sys.exit(main())
