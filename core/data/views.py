"""From source images to network input: resize once, then augment whole batches with one colour matrix a view.

A view is a random crop, a flip and a colour change. Brightness, contrast, saturation and hue are each affine in RGB, so
they are multiplied into one 3x4 matrix a view, together with the division by 255 and the normalisation; the result is
clamped once at the end, where torchvision's ColorJitter (random order) clamps after each step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from core.data.images import ImageSource
from core.data.warp import draw, warp
from core.errors import UserError
from core.progress import bar

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MEMORY_LIMIT = 2 << 30  # bytes of resized pixels kept in memory for one image set

# Columns of a view's parameters; the colour columns are 1, 1, 1, 0 where the view keeps its colours.
TOP, LEFT, FLIP, BRIGHTNESS, CONTRAST, SATURATION, HUE = range(7)
N_PARAMETERS = 7

_LUMA = np.array([0.299, 0.587, 0.114])
_RGB_TO_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)
_RESIZE_BLOCK = 256  # images resized at a time
_AUGMENT_BLOCK = 16  # views worked on at a time: measured best from 32 to 224 px, their pixels stay in the cache


PLAIN = ("image_size", "resize", "interpolation", "resize_mode", "mean", "std")  # what an evaluation view depends on


@dataclass(frozen=True)
class ViewSpec:
    """How views are made. Sizes in pixels, probabilities in 0..1.

    image_size: side S of a view. resize: side R images are resized to before cropping (0 = round(S / 0.875), 256 for 224).
    crop: 'random' or 'centre'. flip_prob: horizontal flip (0 for digits). jitter_prob: chance that colours change at all.
    brightness, contrast, saturation: factors are uniform in max(0, 1 - x)..1 + x. hue: turn uniform in -hue..hue (0.5 = half circle).
    gray_prob: chance of a grey view. rotate (degrees), scale, shear, shift (of the side): largest affine
    warp, 0 = none. interpolation: 'bicubic' or 'bilinear', antialiased.
    mean, std: of the channels in 0..1 for the normalisation. resize_mode: 'shortest' cuts the centred square out of an image before
    it is resized, 'squash' resizes all of it to a square.
    """

    image_size: int = 224
    resize: int = 0
    crop: str = "random"
    flip_prob: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter_prob: float = 0.8
    gray_prob: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize_mode: str = "shortest"

    def __post_init__(self):
        if self.image_size < 1:
            raise UserError(f"image_size must be at least 1 pixel, not {self.image_size}")
        if not self.resize:
            object.__setattr__(self, "resize", round(self.image_size / 0.875))
        if self.resize < self.image_size:
            raise UserError(f"resize ({self.resize} px) must be at least image_size ({self.image_size} px)")
        if self.crop not in ("random", "centre"):
            raise UserError(f"crop must be 'random' or 'centre', not '{self.crop}'")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise UserError(f"interpolation must be 'bicubic' or 'bilinear', not '{self.interpolation}'")
        if self.resize_mode not in ("shortest", "squash"):
            raise UserError(f"resize_mode must be 'shortest' or 'squash', not '{self.resize_mode}'")
        for name in ("flip_prob", "jitter_prob", "gray_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        for name in ("brightness", "contrast", "saturation", "hue", "rotate", "scale", "shear", "shift"):
            if not 0 <= getattr(self, name) <= (0.5 if name == "hue" else np.inf):
                raise UserError(f"{name} must be 0 or more (hue at most 0.5), not {getattr(self, name)}")

    def plain(self) -> dict[str, Any]:
        """Return what the evaluation view depends on: JSON values, from which `of` makes it again."""
        return {name: getattr(self, name) for name in PLAIN}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> ViewSpec:
        """Return the spec with the evaluation view that `plain` gave; what an older one lacks is as it was then."""
        values = {name: plain[name] for name in PLAIN if name in plain}
        return cls(**values | {name: tuple(values[name]) for name in ("mean", "std")})

    @property
    def warps(self) -> bool:
        """Whether views are warped at all."""
        return any((self.rotate, self.scale, self.shear, self.shift))


class ResizedImages:
    """Images resized to RxR, in memory where they fit, else resized for each batch.

    Planes come first, (N,3,R,R) uint8: crops are then copies of long rows. Reading is safe from several threads.
    """

    def __init__(
        self, source: ImageSource, resize: int, interpolation: str = "bicubic", memory_limit: int = MEMORY_LIMIT, mode: str = "shortest"
    ):
        self.source, self.size, self.interpolation, self.mode = source, resize, interpolation, mode
        self.pixels: torch.Tensor | None = None
        if len(source) * 3 * resize * resize <= memory_limit:
            self.pixels = self._resize_everything()

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: np.ndarray) -> torch.Tensor:
        """Return the images at `indices` as (B,3,R,R) uint8."""
        if self.pixels is not None:
            return self.pixels.index_select(0, torch.as_tensor(indices, dtype=torch.int64))
        return _resize(self.source.load(np.asarray(indices)), self.size, self.interpolation, self.mode)

    def _resize_everything(self) -> torch.Tensor:
        pixels = torch.empty(len(self.source), 3, self.size, self.size, dtype=torch.uint8)
        starts = range(0, len(self.source), _RESIZE_BLOCK)
        for start in bar(starts, f"resizing to {self.size} px"):
            indices = np.arange(start, min(start + _RESIZE_BLOCK, len(self.source)))
            pixels[start : start + len(indices)] = _resize(self.source.load(indices), self.size, self.interpolation, self.mode)
        return pixels


def resize_all(source: ImageSource, spec: ViewSpec, memory_limit: int = MEMORY_LIMIT) -> ResizedImages:
    """Return the images of `source` resized for `spec`; kept in memory when they need at most `memory_limit` bytes."""
    return ResizedImages(source, spec.resize, spec.interpolation, memory_limit, spec.resize_mode)


def _resize(images: list[np.ndarray] | np.ndarray, size: int, interpolation: str, mode: str = "shortest") -> torch.Tensor:
    """Return uint8 (B,3,size,size) of uint8 images HxWx3: the centred square of each ('squash': all of it), resized with antialiasing.

    Taking the square first is what 'short side to R, then centre crop R' gives, up to filter taps across the crop's edge,
    and keeps a 1x10000 image from growing into gigabytes.
    """
    if isinstance(images, np.ndarray):
        return _to_square(images if mode == "squash" else _square(images), size, interpolation)
    batches = (image[None] for image in images)
    resized = [_to_square(image if mode == "squash" else _square(image), size, interpolation) for image in batches]
    return torch.cat(resized) if resized else torch.empty(0, 3, size, size, dtype=torch.uint8)


def _square(images: np.ndarray) -> np.ndarray:
    """Return the centred square part of (B,H,W,3)."""
    height, width = images.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[:, top : top + side, left : left + side]


def _to_square(images: np.ndarray, size: int, interpolation: str) -> torch.Tensor:
    """Return (B,3,size,size) uint8 of uint8 images (B,H,W,3)."""
    planes = torch.tensor(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    if not len(planes):
        return torch.empty(0, 3, size, size, dtype=torch.uint8)
    if planes.shape[2:] != (size, size):
        planes = F.interpolate(planes, size=(size, size), mode=interpolation, antialias=True, align_corners=False)
    return planes.contiguous()


def draw_parameters(spec: ViewSpec, n: int, n_views: int, rng: np.random.Generator) -> np.ndarray:
    """Return (n, n_views, 7) float32: crop offsets in pixels, flip, colour factors and hue turn of each view; 6 more columns with warps.

    The same numbers are drawn whatever the probabilities are, so changing one option leaves the others' draws alone.
    """
    shape, slack = (n, n_views), spec.resize - spec.image_size
    parameters = np.empty((*shape, N_PARAMETERS), np.float32)
    parameters[..., [TOP, LEFT]] = rng.integers(0, slack + 1, (*shape, 2))
    parameters[..., FLIP] = rng.random(shape) < spec.flip_prob
    jittered = rng.random(shape) < spec.jitter_prob
    for column, strength in ((BRIGHTNESS, spec.brightness), (CONTRAST, spec.contrast), (SATURATION, spec.saturation)):
        parameters[..., column] = np.where(jittered, rng.uniform(max(0.0, 1 - strength), 1 + strength, shape), 1.0)
    parameters[..., HUE] = np.where(jittered, rng.uniform(-spec.hue, spec.hue, shape), 0.0)
    parameters[..., SATURATION] *= rng.random(shape) >= spec.gray_prob
    if spec.crop == "centre":
        parameters[..., [TOP, LEFT]] = slack // 2
    if spec.warps:
        parameters = np.concatenate([parameters, draw(shape, spec.rotate, spec.scale, spec.shear, spec.shift, rng)], axis=-1)
    return parameters


def evaluation_parameters(spec: ViewSpec, n: int) -> np.ndarray:
    """Return (n, 7) float32 parameters of the plain view: centre crop, no flip, colours as they are."""
    plain = np.array([0, 0, 0, 1, 1, 1, 0], np.float32)
    plain[[TOP, LEFT]] = (spec.resize - spec.image_size) // 2
    return np.tile(plain, (n, 1))


def augment(images: torch.Tensor, parameters: np.ndarray, spec: ViewSpec, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return one normalised float32 view (B,3,S,S) of each image.

    images: (B,3,R,R) uint8 on any device. parameters: (B,7 or 13) from `draw_parameters`. out: where to write, if given.
    """
    if out is None:
        out = torch.empty(len(images), 3, spec.image_size, spec.image_size, device=images.device)
    with _one_thread():
        if parameters.shape[1] > N_PARAMETERS:
            images = warp(images, parameters[:, N_PARAMETERS:])
        _augment_blocks(images, parameters, spec, out)
    return out


def _augment_blocks(images: torch.Tensor, parameters: np.ndarray, spec: ViewSpec, out: torch.Tensor) -> None:
    """Write the views of `augment` into `out`, a block of images at a time."""
    size, n = spec.image_size, len(images)
    block = _AUGMENT_BLOCK if images.device.type == "cpu" else max(n, 1)
    matrices = torch.from_numpy(_colour_matrices(parameters, spec)).to(images.device)
    grey = torch.from_numpy(_grey_weights(parameters, spec)).to(images.device)
    pixels = torch.ones(min(block, n), 4, size * size, device=images.device)  # row 3 stays 1: the affine part
    low, high = ((np.array([[0.0], [1.0]]) - spec.mean) / spec.std).tolist()
    for start in range(0, n, block):
        rows = slice(start, min(start + block, n))
        chunk = pixels[: rows.stop - rows.start]
        _crop(images[rows], parameters[rows], chunk[:, :3].unflatten(2, (size, size)))
        matrix = matrices[rows]
        # Contrast pulls towards the mean grey of the crop, which is known only now.
        matrix[:, :, 3] += torch.einsum("bij,bj->bi", grey[rows], chunk[:, :3].mean(2))
        view = out[rows].view(len(chunk), 3, -1)
        torch.bmm(matrix, chunk, out=view)
        for channel in range(3):
            view[:, channel].clamp_(low[channel], high[channel])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep small operations off the thread team: on busy cores waking it for each one took 3 to 100 times their own time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def evaluation_view(images: torch.Tensor, spec: ViewSpec) -> torch.Tensor:
    """Return the plain view (B,3,S,S) float32 of (B,3,R,R) uint8 images: centre crop and normalisation, no randomness."""
    return augment(images, evaluation_parameters(spec, len(images)), spec)


def _crop(images: torch.Tensor, parameters: np.ndarray, out: torch.Tensor) -> None:
    """Write the crop (flipped where asked) of each image (B,3,R,R) into out (B,3,S,S) float32, values 0..255."""
    size = out.shape[-1]
    tops, lefts, flips = parameters[:, [TOP, LEFT, FLIP]].astype(np.int64).T
    if images.device.type != "cpu":
        out.copy_(_gather_crop(images, tops, lefts, flips, size))
        return
    # Row copies in NumPy: measured ten times faster than one gather of all pixels on a CPU.
    source, target = images.numpy(), out.numpy()
    for i, (top, left, flip) in enumerate(zip(tops.tolist(), lefts.tolist(), flips.tolist(), strict=True)):
        crop = source[i, :, top : top + size, left : left + size]
        target[i] = crop[:, :, ::-1] if flip else crop


def _gather_crop(images: torch.Tensor, tops: np.ndarray, lefts: np.ndarray, flips: np.ndarray, size: int) -> torch.Tensor:
    """Return the crops (B,3,S,S) by indexing, without a loop over images: what a GPU wants."""
    steps = np.arange(size)
    places = tops[:, None] + steps, lefts[:, None] + np.where(flips[:, None] > 0, size - 1 - steps, steps)
    rows, columns = (torch.from_numpy(index).to(images.device) for index in places)
    batch = torch.arange(len(images), device=images.device)
    return images[
        batch[:, None, None, None], torch.arange(3, device=images.device)[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]


def _colour_matrices(parameters: np.ndarray, spec: ViewSpec) -> np.ndarray:
    """Return (B,3,4) float32: pixels 0..255 (with a 1 appended) to normalised colours, all but contrast's mean-grey term."""
    factors = parameters.astype(np.float64)
    identity = np.eye(3)
    saturation = factors[:, SATURATION, None, None]
    saturate = saturation * identity + (1 - saturation) * _LUMA  # every row of the second term is the luma weights
    angle = 2 * np.pi * factors[:, HUE]
    turn = np.tile(identity, (len(factors), 1, 1))
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 2, 1] = np.sin(angle)
    turn[:, 1, 2] = -turn[:, 2, 1]
    scale = (factors[:, BRIGHTNESS] * factors[:, CONTRAST])[:, None, None]
    colour = (_YIQ_TO_RGB @ turn @ _RGB_TO_YIQ) @ saturate * scale
    std = np.array(spec.std)
    matrices = np.empty((len(factors), 3, 4), np.float32)
    matrices[:, :, :3] = colour / std[:, None] / 255
    matrices[:, :, 3] = -np.array(spec.mean) / std
    return matrices


def _grey_weights(parameters: np.ndarray, spec: ViewSpec) -> np.ndarray:
    """Return (B,3,3) float32: contrast's offset as a linear function of the crop's channel means (0..255).

    Saturation and hue leave grey alone, so the offset passes through both of them unchanged.
    """
    factors = parameters.astype(np.float64)
    strength = (1 - factors[:, CONTRAST]) * factors[:, BRIGHTNESS] / 255
    return (strength[:, None, None] * (1 / np.array(spec.std))[:, None] * _LUMA).astype(np.float32)
