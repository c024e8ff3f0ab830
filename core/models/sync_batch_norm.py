"""BatchNorm over the batch of all processes, on gloo and NCCL alike (torch's own SyncBatchNorm needs a GPU)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _SumOverProcesses(torch.autograd.Function):
    """all_reduce(sum) whose gradient is the same: each process's summand reaches the loss of every process."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm(nn.Module):
    """A BatchNorm layer whose training statistics are those of the global batch (Ioffe and Szegedy 2015, arXiv:1502.03167).

    In evaluation mode and with one process it does what the replaced layer did. Names of parameters and buffers are the
    replaced layer's, and so are the objects; timm's activation inside BatchNorm (`drop`, `act`) comes along.

    Args:
        norm: the layer to replace.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.eps, self.momentum, self.track_running_stats = norm.eps, norm.momentum, norm.track_running_stats
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(norm, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, ...) per channel; all processes must call it together in training mode, batches may differ."""
        batch_statistics = self.training or self.running_mean is None
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
        if batch_statistics and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            y = self._global_forward(x)
        else:
            mean, var = self.running_mean, self.running_var
            y = F.batch_norm(x, mean, var, self.weight, self.bias, batch_statistics, self._factor(), self.eps)
        return self.act(self.drop(y))

    def _factor(self) -> float:
        if self.momentum is not None:
            return self.momentum
        return 1.0 / max(int(self.num_batches_tracked), 1) if self.num_batches_tracked is not None else 0.0

    def _global_forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        mean, var, count = _global_moments(wide)
        if self.training and self.running_mean is not None and self.running_var is not None:
            factor = self._factor()
            unbiased = var.detach() * (count / (count - 1).clamp_min(1))
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), factor)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), factor)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        scale = torch.rsqrt(var + self.eps).to(wide.dtype)
        y = (wide - mean.to(wide.dtype).view(shape)) * scale.view(shape)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)


def _global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (C,), biased variance (C,) and count () of x (B, C, ...) over all processes, in float64, by one all_reduce.

    The local moments are exact about the local mean; only the C-wide sums are joined, in float64, so that the difference of
    squares loses nothing.
    """
    dims = [d for d in range(x.ndim) if d != 1]
    local_count = x.numel() // x.shape[1]
    if local_count:
        var, mean = torch.var_mean(x, dims, unbiased=False)
    else:  # an empty share still takes part in the collective, and in its backward
        mean = var = x.sum(dims)
    mean, var = mean.double(), var.double()
    count = mean.new_full((1,), local_count)
    sums = _SumOverProcesses.apply(torch.cat([mean * local_count, (var + mean**2) * local_count, count]))
    channels = x.shape[1]
    total = sums[-1].detach().clamp_min(1)
    global_mean = sums[:channels] / total
    return global_mean, (sums[channels:-1] / total - global_mean**2).clamp_min(0), total


def convert(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm layer of `module` by SyncBatchNorm, in place; parameters and buffers stay the same objects.

    Returns:
        `module`, or the replacement when `module` is itself a BatchNorm layer.
    """
    if isinstance(module, _BatchNorm):
        return SyncBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, convert(child))
    return module
