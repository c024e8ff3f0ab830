"""Device and number format: chosen once, used everywhere (the habit of open_clip's precision.py)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from core.errors import UserError


def pick_device(gpu: str) -> torch.device:
    """Return the device that `gpu` names: `auto` (CUDA, then MPS, then CPU), `cpu`, `mps`, or a CUDA index."""
    if gpu == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", _local_rank())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if gpu == "cpu":
        return torch.device("cpu")
    if gpu == "mps" and torch.backends.mps.is_available():
        return torch.device("mps")
    count = torch.cuda.device_count()
    if gpu.isdecimal() and int(gpu) < count:
        return torch.device("cuda", int(gpu))
    others = f"use auto, cpu, mps or an index below {count}" if count else "leave gpu out (auto takes what there is) or give cpu"
    raise UserError(f"gpu = '{gpu}' is not on this machine ({count} CUDA devices); {others}")


def has_bf16(device: torch.device) -> bool:
    """Say whether bf16 arithmetic is fast on `device`.

    On a CPU that takes AMX: with AVX512-BF16 alone training steps take 1.3 to 2.1 times as long as in fp32, forward passes 1.1 to 1.8 times
    (MobileNetV2, ResNet-18, ViT-S; torch 2.15, `bench_view_cache` measures it).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return `bf16` or `fp32` for `auto | bf16 | fp32`."""
    if precision != "auto":
        return precision
    return "bf16" if has_bf16(device) else "fp32"


def mixed_precision(use_amp: bool, device: torch.device) -> str:
    """Return the number format of mixed-precision training: `bf16` where it is fast, else `fp16` on CUDA, else `fp32`."""
    if use_amp and has_bf16(device):
        return "bf16"
    return "fp16" if use_amp and device.type == "cuda" else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Return the context in which forward passes run."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Return what scales the loss: fp16 gradients would vanish without; it does nothing in the other formats."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def _local_rank() -> int:
    import os

    return int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
