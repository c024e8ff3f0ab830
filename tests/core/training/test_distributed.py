"""Two processes train exactly what one trains at the same global batch."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.data.images import ArrayImages
from core.data.loader import ViewLoader, sampling_weights
from core.data.views import ViewSpec, resize_all
from core.errors import UserError
from core.models import backbones
from core.models.cosine_classifier import CosineClassifier
from core.models.discovery import DiscoveryModel
from core.models.heads import ProjectionHead
from core.training import distributed, optimizers
from core.training.discovery import DiscoveryTask, Targets
from core.training.loop import Plan, fit

CPU = torch.device("cpu")
N, BATCH = 40, 12
LR = 1e-3  # the head's normalisation makes first gradients large; weights should stay where 1e-5 means something
MODES = ("none", "supcon", "soft", "both")


def targets(mode: str) -> Targets:
    """Return 3 labelled classes on the first half; clusters on the second, unequally weighted."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.where(torch.arange(N) < N // 2, torch.arange(N) % 3, -1)
    if mode in ("none", "both"):
        return Targets(labels, labels, torch.full((N,), -1), torch.zeros(N))
    pseudo = torch.where((torch.arange(N) >= N // 2) & (torch.arange(N) % 5 > 0), torch.arange(N) % 4, -1)
    weights = torch.rand(N, generator=generator) * (pseudo >= 0)
    prototypes = torch.nn.functional.normalize(torch.randn(4, 128, generator=generator), dim=1)
    return Targets(labels, labels, pseudo, weights, prototypes, torch.zeros(128), first_pseudo_epoch=0)


def train(mode: str) -> dict[str, object]:
    """Train one epoch of 3 steps on this process's share; return the mean losses and the weights."""
    pixels = np.random.default_rng(0).integers(0, 256, (N, 10, 10, 3), dtype=np.uint8)
    spec = ViewSpec(image_size=8, resize=10)
    weights = sampling_weights(np.arange(N // 2), np.arange(N // 2, N), N)
    place = {"rank": distributed.rank(), "world_size": distributed.world_size()}
    loader = ViewLoader(resize_all(ArrayImages(pixels), spec), spec, BATCH, weights=weights, seed=1, num_workers=0, **place)
    classifier = CosineClassifier(128, 5) if mode == "both" else None
    model = DiscoveryModel(backbones.build("small_cnn", 8, 0, pretrained=False, seed=1), ProjectionHead(128, 32, 16, 24), classifier)
    config = SimpleNamespace(
        n_views=2, temperature=0.3, sup_con_weight=0.5, sup_con_temperature=0.07, contrast_unlabel_only=False, pseudo_loss=mode
    )
    config.objective = "both" if mode == "both" else "contrast"
    config.classifier_weight, config.entropy_weight, config.teacher_temperature = 0.7, 2.0, 0.04
    config.update_interval, config.epochs, config.gamma_ramp, config.pseudo_loss_weight = 2, 4, "intervals", 1.0
    optimizer = optimizers.build("sgd", model.parameters(), LR, 0.9, 1e-4)
    task = DiscoveryTask(model, loader, targets(mode), config, lambda epoch: {}, CPU, optimizer)
    found: dict[str, float] = {}
    before = {name: value.clone() for name, value in model.trainable_state().items()}
    fit(task, Plan(0, 1, lambda epoch: LR, CPU), lambda epoch, metrics: found.update(metrics))
    assert task.steps == 3
    assert all((value - before[name]).abs().max() > 1e-4 for name, value in model.trainable_state().items())
    losses = {name: value for name, value in found.items() if name.startswith("L_")}
    return {"losses": losses, "weights": {name: value.clone() for name, value in model.trainable_state().items()}}


def worker(rank: int, port: int, folder: str) -> None:
    """Be one of two ranks, as torchrun would start it."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.start(CPU)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (rank, 2, rank == 0)
    assert distributed.from_main({"from": rank}) == {"from": 0}
    rows = distributed.gather_views(torch.tensor([[rank, 0], [rank, 1]]), 2)
    assert rows.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    torch.save({mode: train(mode) for mode in MODES}, Path(folder) / f"rank{rank}.pt")
    distributed.stop()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for mode in MODES:
        alone = train(mode)
        assert ("L_pseudo" in alone["losses"]) == (mode in ("supcon", "soft"))
        assert ("L_distill" in alone["losses"]) == (mode == "both")
        assert ranks[0][mode]["losses"] == pytest.approx(alone["losses"], abs=1e-5)
        for rank in ranks:
            for name, value in alone["weights"].items():
                torch.testing.assert_close(rank[mode]["weights"][name], value, rtol=0, atol=1e-5)


def test_a_single_process_needs_no_group():
    tensor = torch.arange(4.0, requires_grad=True)
    distributed.start(CPU)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.gather(tensor) is tensor and distributed.gather_views(tensor, 2) is tensor
    assert distributed.from_main([1]) == [1]
    model = torch.nn.Linear(1, 1)
    assert distributed.wrap(model) is model
    distributed.stop()


def test_only_rank_0_is_main_even_before_the_group_exists(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert not distributed.is_main()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_processes_that_never_come_are_not_waited_for_without_end(monkeypatch, capsys, rank):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name, value in {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(distributed, "UNLAUNCHED", 2.0)
    with pytest.raises(UserError, match=r"the other 1 of WORLD_SIZE = 2 processes did not come within 2 s .*torchrun, or unset RANK"):
        distributed.start(CPU)
    assert "waiting up to 2 s for the other 1" in capsys.readouterr().err


def test_only_torchrun_is_waited_for_long(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.delenv(distributed.PATIENCE, raising=False)
    assert distributed._patience() == 60
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # what torchrun calls a launch that was not named
    assert distributed._patience() == 300
    monkeypatch.setenv(distributed.PATIENCE, "900")
    assert distributed._patience() == 900


@pytest.mark.parametrize("given", ["soon", "-1", "0", "nan", "inf"])
def test_a_patience_that_is_no_number_is_refused(monkeypatch, given):
    monkeypatch.setenv(distributed.PATIENCE, given)
    with pytest.raises(UserError, match=rf"^{distributed.PATIENCE} = '{given}' is no number of seconds; give one, or unset it$"):
        distributed._patience()
