"""Small affine warps of whole batches: rotation, scale, shear and shift, for images such as glyphs that crops and flips would spoil."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

# Columns of a warp's parameters.
ANGLE, SCALE_X, SCALE_Y, SHEAR, SHIFT_X, SHIFT_Y = range(6)
N_WARP = 6


def draw(shape: tuple[int, ...], rotate: float, scale: float, shear: float, shift: float, rng: np.random.Generator) -> np.ndarray:
    """Return warp parameters (*shape, 6), each uniform around none.

    rotate: largest angle in degrees. scale: factors in 1 - scale..1 + scale for each axis. shear: largest shear.
    shift: largest shift as a fraction of the side.
    """
    limits = np.array([np.deg2rad(rotate), scale, scale, shear, 2 * shift, 2 * shift])
    parameters = rng.uniform(-1.0, 1.0, (*shape, N_WARP)) * limits
    parameters[..., [SCALE_X, SCALE_Y]] += 1
    return parameters.astype(np.float32)


def warp(images: torch.Tensor, parameters: np.ndarray) -> torch.Tensor:
    """Return the warped images (B,3,R,R) float32, values 0..255, black outside; images (B,3,R,R) uint8, parameters (B,6)."""
    p = parameters.astype(np.float64)
    cos, sin = np.cos(p[:, ANGLE]), np.sin(p[:, ANGLE])
    matrices = np.empty((len(p), 2, 3), np.float32)
    matrices[:, 0] = np.stack([p[:, SCALE_X] * cos, -sin + p[:, SHEAR], p[:, SHIFT_X]], 1)
    matrices[:, 1] = np.stack([sin, p[:, SCALE_Y] * cos, p[:, SHIFT_Y]], 1)
    grid = F.affine_grid(torch.from_numpy(matrices).to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
