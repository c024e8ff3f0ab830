"""A training is done once: equal commands wait for each other and share the result, one process or several."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.data import superclasses
from core.stages.discovery import train
from core.stages.discovery.config import TrainConfig
from core.tracking import run as tracking
from core.tracking import stage
from tests.core.stages import tiny

SEEDS = {"first": 1, "second": 2}  # stand in for superclasses: trainings on the same images


def of_superclass(images: Path) -> Any:
    return lambda config, name: dataclasses.replace(tiny.config(images, epochs=1, seed=SEEDS[name]), superclass_name=name)


def superclass(name: str) -> SimpleNamespace:
    """Stands for a superclass of CIFAR-100 in which there is something to tell apart."""
    return SimpleNamespace(name=name, known=(0, 1), novel=(2,))


def command(config: TrainConfig) -> tuple[dict[str, Any], str]:
    """Run `train_superclass`; return its summary and its run's id."""
    with tracking.open_run("train_superclass", "once") as run:
        return train.run(config, run), run.run_id


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr("core.stages.inputs.draw_curves", lambda *_: None)


def test_the_same_command_again_gives_the_same_without_training(client, images, monkeypatch):
    summary, first = command(tiny.config(images, epochs=1))
    monkeypatch.setattr(train, "Training", lambda *_: pytest.fail("trained"))
    again, second = command(tiny.config(images, epochs=1, num_workers=3, eval_funcs="v1", save_ckpt_every=1))
    runs = [client.get_run(run_id).data for run_id in (first, second)]
    assert again == summary and first != second and runs[1].tags["taxon.reused"] == first
    kept = (stage.KEY_TAG, "taxon.weights_digest", "taxon.best_checkpoint", "taxon.best_score", "taxon.data", "mlflow.note.content")
    assert {name: runs[1].tags[name] for name in kept} == {name: runs[0].tags[name] for name in kept}
    assert stage.load_finished(second).manifest == stage.load_finished(first).manifest
    assert runs[1].metrics["val/accuracy_old"] == runs[0].metrics["val/accuracy_old"]
    shown = [{name for name in run.metrics if name.startswith("unlabelled/v")} for run in runs]
    assert shown == [{f"unlabelled/{version}_{part}" for part in ("all", "old", "new")} for version in ("v2", "v1")]


def test_another_question_is_another_training(client, images):
    digests = {command(tiny.config(images, epochs=1, **options))[0]["weights_digest"] for options in ({}, {"lr": 3e-3})}
    assert len(digests) == 2


def _at_once(images: str, barrier: Any, told: Any) -> None:
    barrier.wait()
    summary, run_id = command(tiny.config(Path(images), epochs=2))
    told.put((summary["weights_digest"], run_id))


def test_two_equal_commands_at_once_train_once_and_leave_each_other_s_folder_alone(client, images):
    context = multiprocessing.get_context("fork")
    barrier, told = context.Barrier(2), context.Queue()
    both = [context.Process(target=_at_once, args=(str(images), barrier, told)) for _ in range(2)]
    for one in both:
        one.start()
    found = [told.get(timeout=300) for _ in both]
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0] and len({weights for weights, _run in found}) == 1
    reused = [client.get_run(run_id).data.tags.get("taxon.reused") for _weights, run_id in found]
    assert sorted(map(bool, reused)) == [False, True]
    assert all(stage.load_finished(run_id) is not None for _weights, run_id in found)


def test_all_superclasses_go_on_with_those_that_are_left(client, images, monkeypatch):
    monkeypatch.setattr(superclasses, "SUPERCLASSES", [superclass(name) for name in SEEDS])
    monkeypatch.setattr(train, "_of_superclass", of_superclass(images))
    publish, trained = train.Training.publish, []

    def interrupted(self: train.Training) -> dict[str, Any]:
        trained.append(self.config.superclass_name)
        if trained == ["first", "second"]:
            raise KeyboardInterrupt
        return publish(self)

    monkeypatch.setattr(train.Training, "publish", interrupted)
    everything = TrainConfig(train_all_superclasses=True)
    with pytest.raises(KeyboardInterrupt):
        command(everything)
    summaries, run_id = command(everything)
    assert trained == ["first", "second", "second"] and list(summaries) == ["first", "second"]
    assert client.get_run(run_id).data.tags["taxon.reused.first"]
    assert command(everything)[0] == summaries and len(trained) == 3


def _rank(rank: int, port: int, images: str, folder: str) -> None:
    """Be one of two ranks of torchrun."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    superclasses.SUPERCLASSES = [superclass(name) for name in SEEDS]
    train._of_superclass = of_superclass(Path(images))
    everything = TrainConfig(train_all_superclasses=True, gpu="cpu")
    found = train.run(everything, None) if rank else command(everything)[0]
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_two_ranks_train_all_superclasses_and_skip_finished_ones(client, images, tmp_path, monkeypatch):
    monkeypatch.setattr(superclasses, "SUPERCLASSES", [superclass("first")])
    monkeypatch.setattr(train, "_of_superclass", of_superclass(images))
    before, _run = command(TrainConfig(train_all_superclasses=True))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (port, str(images), str(tmp_path)), nprocs=2)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert list(ranks[0]) == ["first", "second"] and ranks[0]["first"] == before["first"]
    assert ranks[1] == {"first": {}, "second": {}}
    experiment = client.get_experiment_by_name("taxon").experiment_id
    trained = [run for run in client.search_runs([experiment]) if run.data.tags.get(stage.KEY_TAG)]
    assert len(trained) == 2 and {run.info.status for run in trained} == {"FINISHED"}
