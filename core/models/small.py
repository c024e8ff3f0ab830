"""`small_cnn`: the project's own network for the offline quick run on small images (8x8 digits up to 32x32)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NAME = "small_cnn"
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)
_WIDTHS = (32, 64, 128)
_GROUPS = 8


class SmallCNN(nn.Module):
    """Three convolution stages with GroupNorm and GELU, then global average pooling; about 290 thousand parameters.

    GroupNorm instead of BatchNorm makes a step independent of how the batch is spread over processes. The layout follows
    timm's (`blocks`, `forward_features`, `forward_head`), so it is split into trunk and tail like every other backbone.
    """

    num_features = _WIDTHS[-1]

    def __init__(self, in_chans: int = 3) -> None:
        super().__init__()
        channels = (in_chans, *_WIDTHS)
        self.blocks = nn.Sequential(*(_stage(channels[i], channels[i + 1], stride=1 if i == 0 else 2) for i in range(len(_WIDTHS))))
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to the feature map (B, 128, ceil(H/4), ceil(W/4))."""
        return self.blocks(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the feature map to (B, 128); there is no classifier, so `pre_logits` changes nothing."""
        return self.global_pool(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to pooled features (B, 128)."""
        return self.forward_head(self.forward_features(x))


def _stage(in_width: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, width),
        nn.GELU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, width),
        nn.GELU(),
    )


def create(seed: int) -> SmallCNN:
    """Return the network initialised from `seed`; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallCNN()
