"""Two processes run the long-tail stage to what one gives at the same global batch, batch statistics included."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch

from core.stages.longtail import train
from core.training import state as states
from tests.core.stages.longtail import tiny
from tests.memory_run import MemoryRun

# Plain gradient steps: Adam's division would blow the last bits of small gradients up to whole steps.
COMMON = {"optimizer": "sgd", "momentum": 0.0, "lr": 1e-2, "dropout": 0.0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "epochs": 3}
SWITCHES = {
    "balance_sampler": True,
    "disable_sampler_epoch": 1,
    "stage3_epoch": 1,
    "progressive_resize_epoch": 1,
    "tail_focal_epoch": 2,
    "center_update_epoch": 2,
    "use_cosine_classifier": True,
    "use_center_loss": True,
    "use_ema": True,
    "ema_decay": 0.5,
}
KINDS = {
    "every switch": COMMON | SWITCHES,
    "batch norm": COMMON | {"backbone": "resnet10t", "image_size": 32, "epochs": 1, "lr": 1e-3, "loss_type": "ce"},
}


def trained(kind: str, images: Path, cache: Path) -> dict[str, object]:
    """Train on this process's share; return rank 0's losses and validation figures, and the weights."""
    os.environ["TAXON_CACHE"] = str(cache)
    main = os.environ.get("RANK", "0") == "0"
    training = train.LongtailTraining(train.prepare(tiny.config(images, **KINDS[kind])), MemoryRun(cache.parent / "run") if main else None)
    training.fit()
    told = {"val/nll", "L_label", "L_total", "L_center"}
    history = [{name: value for name, value in metrics.items() if name in told} for _, metrics in training.history]
    return {"history": history, "weights": dict(training.weights()), "checkpoints": len(states.read_index(training.work / "checkpoints"))}


def worker(rank: int, port: int, images: str, folder: str) -> None:
    """Be one of two ranks, as torchrun would start it."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo")
    found = {kind: trained(kind, Path(images), Path(folder) / "cache") for kind in KINDS}
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, monkeypatch, longtail_images):
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "two").mkdir()
    torch.multiprocessing.spawn(worker, (port, str(longtail_images), str(tmp_path / "two")), nprocs=2)
    ranks = [torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for kind in KINDS:
        alone = trained(kind, longtail_images, tmp_path / "one" / "cache")
        assert alone["checkpoints"] and ranks[1][kind]["history"] == []
        for one, two in zip(alone["history"], ranks[0][kind]["history"], strict=True):
            assert two == pytest.approx(one, abs=1e-5)
        for rank in ranks:
            assert rank[kind]["weights"].keys() == alone["weights"].keys()
            for name, value in alone["weights"].items():
                torch.testing.assert_close(rank[kind]["weights"][name], value, rtol=0, atol=1e-5, msg=f"{kind}: {name}")
