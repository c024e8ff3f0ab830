"""One loop at world size 1 and N: what differs lives in these few functions (modelled on torchrun's environment)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.rendezvous import rendezvous

from core.errors import UserError
from core.places import say

MEETING = 300.0  # seconds that torchrun's processes wait for each other: it has started all of them, on nodes of any speed
UNLAUNCHED = 60.0  # seconds that others do: their variables may be left over from another launch
PATIENCE = "TAXON_PEER_PATIENCE"  # environment variable: these seconds, for launchers other than torchrun
NOTICE = 0.1  # share of the waiting after which the user is told for whom
T = TypeVar("T")


def start(device: torch.device) -> None:
    """Join the process group that torchrun describes (WORLD_SIZE, RANK, ...); nothing to do in a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        store, rank, world = _meet()
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=world)


def _meet() -> tuple[dist.Store, int, int]:
    """Wait until every process has come; return what they share, this one's rank and their number.

    Variables left over from another launch promise processes that never come: that is said early, and does not last for ever.
    """
    others = f"the other {int(os.environ['WORLD_SIZE']) - 1} of WORLD_SIZE = {os.environ['WORLD_SIZE']} processes"
    remedy = "start all of them with torchrun, or unset RANK and WORLD_SIZE"
    seconds = _patience()
    notice = threading.Timer(NOTICE * seconds, say, [f"waiting up to {seconds:.0f} s for {others}; {remedy}"])
    notice.daemon = True
    notice.start()
    try:
        store, rank, world = next(rendezvous("env://", timeout=timedelta(seconds=seconds)))
        store = dist.PrefixStore("taxon", store)
        store.set(f"here/{rank}", "1")
        store.wait([f"here/{other}" for other in range(world)], timedelta(seconds=seconds))
        store.set_timeout(default_pg_timeout)
    except (dist.DistError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:120]
        longer = "" if _launched() else f" (a launcher that takes longer: set {PATIENCE})"
        raise UserError(f"{others} did not come within {seconds:.0f} s ({said}); {remedy}{longer}") from None
    finally:
        notice.cancel()
    return store, rank, world


def _launched() -> bool:
    """Say whether torchrun has started this process: it names every launch."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _patience() -> float:
    """Return for how many seconds the processes wait for each other."""
    given = os.environ.get(PATIENCE, "")
    try:
        seconds = float(given) if given else MEETING if _launched() else UNLAUNCHED
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise UserError(f"{PATIENCE} = '{given}' is no number of seconds; give one, or unset it")
    return seconds


@contextmanager
def joined(gpu: str) -> Iterator[None]:
    """Belong to the process group of torchrun, where there is one; `gpu` is the option that names the device."""
    start(torch.device("cpu") if gpu == "cpu" or not torch.cuda.is_available() else torch.device("cuda"))
    try:
        yield
    finally:
        stop()


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Return this process's rank, 0 outside a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes, 1 outside a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Say whether this process tracks and saves. Read from torchrun's RANK before the group exists."""
    return rank() == 0 and int(os.environ.get("RANK", "0")) == 0


def wrap(model: nn.Module) -> nn.Module:
    """Return the module whose forward averages gradients over ranks."""
    return nn.parallel.DistributedDataParallel(model) if world_size() > 1 else model


def gather(tensor: Tensor) -> Tensor:
    """Concatenate `tensor` (B, ...) of all ranks in rank order, (W*B, ...), with gradient.

    Every rank then computes the same global loss. The gradient of the gather sums over the W ranks and DDP divides by W, so the
    weights receive exactly the gradient of a single process at the same global batch.
    """
    if world_size() == 1:
        return tensor
    return _Gather.apply(tensor)


def gather_views(tensor: Tensor, n_views: int) -> Tensor:
    """Concatenate view-major rows (V*B, ...) of all ranks into view-major rows (V*W*B, ...)."""
    if world_size() == 1:
        return tensor
    return torch.cat([gather(view) for view in tensor.chunk(n_views)])


class _Gather(torch.autograd.Function):
    """all_gather whose gradient is this rank's part of the sum over ranks (torch's own is deprecated and says so on stderr)."""

    @staticmethod
    def forward(context, tensor: Tensor) -> Tensor:
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()]


def from_main(value: T) -> T:
    """Return rank 0's `value` (any small JSON-like object) on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
