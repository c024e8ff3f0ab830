"""BatchNorm over processes equals BatchNorm over their joined batch."""

import copy
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from core.models.sync_batch_norm import SyncBatchNorm, convert


class _NormAct(nn.BatchNorm2d):
    """A BatchNorm with its activation inside, as timm has them."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x)))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            _NormAct(6),
            nn.Conv2d(6, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.Flatten(),
            nn.BatchNorm1d(64),
        )
        for norm in (net[1], net[3], net[5]):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    return net


# Far from zero mean, so that a difference of squares in single precision would show.
IMAGES = 20 + torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randn(7, 64, generator=torch.Generator().manual_seed(1))


def train(net: nn.Module, images: torch.Tensor, targets: torch.Tensor, steps: int = 2) -> dict[str, torch.Tensor]:
    """Return the last output, the gradients of the summed loss and the running statistics after `steps` batches."""
    for _ in range(steps):
        net.zero_grad()
        x = images.clone().requires_grad_()
        out = net(x)
        (out * targets).sum().backward()
    found = {"output": out.detach(), "grad.input": x.grad, **{f"grad.{name}": p.grad for name, p in net.named_parameters()}}
    return found | {name: buffer.float() for name, buffer in net.named_buffers()}


def _worker(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    share = slice(0, 4) if rank == 0 else slice(4, 7)
    torch.save(train(convert(network()), IMAGES[share], TARGETS[share]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one_at_the_same_global_batch(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_worker, args=(port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    expected = train(network(), IMAGES, TARGETS)
    assert first.keys() == expected.keys()
    for name, value in expected.items():
        if name in ("output", "grad.input"):
            got = torch.cat([first[name], second[name]])
        elif name.startswith("grad."):
            got = first[name] + second[name]
        else:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
            got = first[name]
        scale = max(1.0, value.abs().max().item())
        assert (got - value).abs().max().item() <= 1e-5 * scale, name


def test_one_process_is_the_layer_that_it_replaced():
    net, images = network(), IMAGES
    expected = train(copy.deepcopy(net), images, TARGETS)
    got = train(convert(net), images, TARGETS)
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_evaluation_uses_the_running_statistics():
    net = network()
    other = convert(copy.deepcopy(net)).eval()
    assert torch.equal(other(IMAGES), net.eval()(IMAGES))


def test_names_and_objects_stay():
    net = network()
    before = {name: id(p) for name, p in net.named_parameters()}
    keys = list(net.state_dict())
    assert convert(net) is net
    assert {name: id(p) for name, p in net.named_parameters()} == before and list(net.state_dict()) == keys
    assert sum(isinstance(module, SyncBatchNorm) for module in net) == 3
    assert isinstance(convert(nn.BatchNorm2d(3)), SyncBatchNorm)


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}, {"momentum": None}])
def test_variants_of_the_layer_are_kept(options):
    norm = nn.BatchNorm2d(3, **options)
    other = convert(copy.deepcopy(norm))
    for mode in (True, True, False):
        assert torch.equal(other.train(mode)(IMAGES), norm.train(mode)(IMAGES))
