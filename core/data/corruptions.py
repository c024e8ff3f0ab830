"""Image corruptions in five severities (Hendrycks & Dietterich 2019, Benchmarking Neural Network Robustness), at any size.

The published tables are for 32 px (CIFAR-10-C) and 224 px (ImageNet-C); sizes between take the geometric interpolation over the
logarithm of the side, sizes beyond the nearer table. Defocus is measured in parts of the side: the 224 px radii, scaled.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Collection, Sequence
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from core.errors import UserError, nearest

SEVERITIES = (1, 2, 3, 4, 5)
SMALL, LARGE = 32, 224
# name: values at 32 px and at 224 px, of severities 1..5
TABLES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),  # standard deviation, range 0..1
    "shot_noise": ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),  # photons of white
    "impulse_noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),  # share of values
    "defocus_blur": (tuple(r * SMALL / LARGE for r in (3, 4, 6, 8, 10)), (3, 4, 6, 8, 10)),  # radius in pixels
    "motion_blur": ((1, 1.5, 2, 2, 2.5), (3, 5, 8, 12, 15)),  # sigma in pixels along the path
    "jpeg": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),  # quality
    "brightness": ((0.05, 0.10, 0.15, 0.20, 0.30), (0.1, 0.2, 0.3, 0.4, 0.5)),  # added to the value of HSV
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),  # factor
}
_MOTION_RADII = ((6, 6, 6, 8, 9), (10, 15, 15, 15, 20))  # the path has 2 * radius + 1 steps of a pixel
_DISK_SAMPLES = 16  # a pixel

Generators = Sequence[np.random.Generator]


def generator(seed: int, *words: object) -> np.random.Generator:
    """Return a generator of its own for e.g. (seed, corruption, guid): results then do not depend on batches or order."""
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, words)).encode())])


def amount(name: str, severity: int, side: int) -> float:
    """Return the parameter of a corruption at a severity for images of `side` pixels. UserError for names that do not exist."""
    check(name, severity, CORRUPTIONS)
    return _interpolate(TABLES[name], severity, side)


def check(name: str, severity: int, known: Collection[str]) -> None:
    """Raise UserError for an unknown corruption or a severity outside 1..5."""
    if name not in known:
        raise UserError(f"there is no corruption '{name}'{nearest(name, known)} (choose from: {', '.join(known)})")
    if severity not in SEVERITIES:
        raise UserError(f"severity must be 1, 2, 3, 4 or 5, not {severity}")


def _interpolate(tables: tuple[Sequence[float], Sequence[float]], severity: int, side: int) -> float:
    small, large = (table[severity - 1] for table in tables)
    weight = min(max(math.log(side / SMALL) / math.log(LARGE / SMALL), 0.0), 1.0)
    return small ** (1 - weight) * large**weight


def corrupt(images: torch.Tensor, name: str, severity: int, seed: int = 0, keys: Sequence[object] | None = None) -> torch.Tensor:
    """Return the corrupted images, uint8 (B,3,H,W) like `images`.

    keys: what each image draws its randomness from, e.g. its guid (None = its position). The draws are the same at every
    severity, so that severities differ in strength only. Raises UserError for an unknown name or severity.
    """
    check(name, severity, CORRUPTIONS)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be uint8 (B,3,H,W), not {images.dtype} {tuple(images.shape)}")
    keys = range(len(images)) if keys is None else keys
    rngs = [generator(seed, name, key) for key in keys]
    if len(rngs) != len(images):
        raise ValueError(f"{len(rngs)} keys for {len(images)} images")
    if not len(images):
        return images.clone()
    corrupted = CORRUPTIONS[name](images.cpu().float() / 255, severity, rngs)
    return (corrupted.clamp(0, 1) * 255).round().to(torch.uint8).to(images.device)


def _side(images: torch.Tensor) -> int:
    return min(images.shape[2:])


def _gaussian_noise(images: torch.Tensor, severity: int, rngs: Generators) -> torch.Tensor:
    noise = np.stack([rng.standard_normal(images.shape[1:], np.float32) for rng in rngs])
    return images + amount("gaussian_noise", severity, _side(images)) * torch.from_numpy(noise)


def _shot_noise(images: torch.Tensor, severity: int, rngs: Generators) -> torch.Tensor:
    photons = amount("shot_noise", severity, _side(images))
    counts = [rng.poisson(image * photons) for image, rng in zip(images.numpy(), rngs, strict=True)]
    return torch.from_numpy(np.stack(counts).astype(np.float32)) / photons


def _impulse_noise(images: torch.Tensor, severity: int, rngs: Generators) -> torch.Tensor:
    """Salt and pepper, each value by itself: half of the hit ones black, half white."""
    share = amount("impulse_noise", severity, _side(images))
    draws = torch.from_numpy(np.stack([rng.random(images.shape[1:], np.float32) for rng in rngs]))
    return torch.where(draws < share / 2, 0.0, torch.where(draws > 1 - share / 2, 1.0, images))


def _defocus_blur(images: torch.Tensor, severity: int, _rngs: Generators) -> torch.Tensor:
    kernel = disk(amount("defocus_blur", severity, _side(images)))
    pad = len(kernel) // 2
    padded = F.pad(images, (pad,) * 4, mode="replicate")
    return F.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)


def disk(radius: float) -> torch.Tensor:
    """Return the (2k+1, 2k+1) kernel that averages a disk of `radius` pixels of the linearly interpolated image; the sum is 1.

    Counting covered pixels instead would make radii below half a pixel do nothing.
    """
    steps = math.ceil(radius * _DISK_SAMPLES)
    axis = torch.arange(-steps, steps + 1) / _DISK_SAMPLES
    reach = math.ceil(radius)
    cells = torch.arange(-reach, reach + 1)
    tent = (1 - (axis[:, None] - cells).abs()).clamp(min=0)  # share of a sample that each cell gets
    inside = (axis[:, None] ** 2 + axis**2 <= radius**2).float()
    kernel = tent.T @ inside @ tent
    return kernel / kernel.sum()


def _motion_blur(images: torch.Tensor, severity: int, rngs: Generators) -> torch.Tensor:
    """Shift along a line at an angle within 45 degrees of the horizontal, older positions weaker, each image its own angle."""
    steps = np.arange(2 * round(_interpolate(_MOTION_RADII, severity, _side(images))) + 1)
    weights = np.exp(-0.5 * (steps / amount("motion_blur", severity, _side(images))) ** 2)
    reach, (height, width) = len(steps), images.shape[2:]
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    blurred = torch.zeros_like(images)
    for image, out, rng in zip(padded, blurred, rngs, strict=True):
        angle = rng.uniform(-np.pi / 4, np.pi / 4)
        tops, lefts = (np.rint(reach + steps * part).astype(int).tolist() for part in (np.sin(angle), np.cos(angle)))
        for weight, top, left in zip(weights / weights.sum(), tops, lefts, strict=True):
            out.add_(image[:, top : top + height, left : left + width], alpha=float(weight))
    return blurred


def _jpeg(images: torch.Tensor, severity: int, _rngs: Generators) -> torch.Tensor:
    quality = round(amount("jpeg", severity, _side(images)))
    decoded = []
    for image in (images * 255).round().to(torch.uint8):
        buffer = BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
        decoded.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1))
    return torch.stack(decoded).float() / 255


def _brightness(images: torch.Tensor, severity: int, _rngs: Generators) -> torch.Tensor:
    """Raise the value of HSV, which scales all channels of a pixel alike; black becomes grey."""
    value = images.amax(1, keepdim=True)
    raised = (value + amount("brightness", severity, _side(images))).clamp(max=1)
    return torch.where(value > 0, images * raised / value.clamp(min=1e-6), raised)


def _contrast(images: torch.Tensor, severity: int, _rngs: Generators) -> torch.Tensor:
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * amount("contrast", severity, _side(images)) + mean


CORRUPTIONS: dict[str, Callable[[torch.Tensor, int, Generators], torch.Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "jpeg": _jpeg,
    "brightness": _brightness,
    "contrast": _contrast,
}
