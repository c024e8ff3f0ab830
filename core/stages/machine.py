"""The device and the CPU threads that a stage computes on."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits

from core.training import precision


def settle(gpu: str, threads: int) -> torch.device:
    """Let this process compute on so many threads; return the device that the option `gpu` names (auto, cpu, mps, a CUDA index)."""
    device = precision.pick_device(gpu)
    torch.set_num_threads(threads)
    threadpool_limits(threads)  # NumPy's own threads: two pools on the same cores hinder each other
    return device
