"""The device and the CPU threads that a stage computes on."""

from __future__ import annotations

from typing import Protocol

import torch
from threadpoolctl import threadpool_limits

from core.cores import threads
from core.training import precision


class MachineOptions(Protocol):
    """What every training's configuration says of the machine."""

    @property
    def gpu(self) -> str:
        """auto, cpu, mps, or a CUDA index."""
        ...

    @property
    def threads(self) -> int | str:
        """CPU threads of a process's computations; 0 = all usable ones."""
        ...


def settle(config: MachineOptions) -> torch.device:
    """Let this process compute on the threads that the configuration gives it; return its device."""
    device = precision.pick_device(config.gpu)
    torch.set_num_threads(threads(config))
    threadpool_limits(threads(config))  # NumPy's own threads: two pools on the same cores hinder each other
    return device
