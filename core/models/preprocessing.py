"""How images become a network's input: what a published checkpoint's own configuration says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import UserError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_RESAMPLE = {2: "bilinear", 3: "bicubic", "bilinear": "bilinear", "bicubic": "bicubic", "random": "bicubic"}


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop and normalise. The defaults are CLIP's: the short side to the input's side, its centre, no margin."""

    mean: tuple[float, ...] = CLIP_MEAN
    """Per channel, range 0..1."""
    std: tuple[float, ...] = CLIP_STD
    """Per channel, range 0..1."""
    interpolation: str = "bicubic"
    """`bicubic` or `bilinear`, antialiased."""
    margin: float = 1.0
    """Side that images are resized to before the centre is cut out, over the input's side; 1 cuts nothing off."""
    resize_mode: str = "shortest"
    """`shortest`: keep the aspect and cut a square out; `squash`: the whole image, whatever its aspect."""

    def views(self, image_size: int) -> dict[str, Any]:
        """Return the fields of a ViewSpec that evaluation views depend on."""
        return {
            "image_size": image_size,
            "resize": round(image_size * self.margin),
            "interpolation": self.interpolation,
            "resize_mode": self.resize_mode,
            "mean": self.mean,
            "std": self.std,
        }


OLDER = Preprocessing(margin=1 / 0.875)
"""Of networks whose weights say nothing: training crops have room, and an eighth of the side is cut off."""


def of_open_clip(config: Mapping[str, Any], source: str) -> Preprocessing:
    """Return what open_clip's `preprocess_cfg` (or a pretrained tag's entry) says; what it leaves out is CLIP's."""
    mode = config.get("resize_mode") or "shortest"
    if mode not in ("shortest", "squash"):
        raise UserError(f"'{source}' wants images resized by '{mode}', which is not done here; give weights for shortest or squash")
    return Preprocessing(
        tuple(config.get("mean") or CLIP_MEAN),
        tuple(config.get("std") or CLIP_STD),
        _interpolation(config.get("interpolation") or "bicubic", source),
        resize_mode=mode,
    )


def of_transformers(config: Mapping[str, Any], source: str) -> Preprocessing:
    """Return what a `preprocessor_config.json` says; what it leaves out is CLIP's."""
    size, crop = config.get("size", 224), config.get("crop_size", config.get("size", 224))
    shortest = size if isinstance(size, int) else size.get("shortest_edge")
    side = crop if isinstance(crop, int) else crop.get("height") or crop.get("shortest_edge")
    cuts = config.get("do_center_crop", shortest is not None)
    return Preprocessing(
        tuple(config.get("image_mean") or CLIP_MEAN),
        tuple(config.get("image_std") or CLIP_STD),
        _interpolation(config.get("resample", 3), source),
        margin=max(1.0, shortest / side) if cuts and shortest and side else 1.0,
        resize_mode="shortest" if shortest or cuts else "squash",
    )


def _interpolation(name: Any, source: str) -> str:
    if name not in _RESAMPLE:
        raise UserError(f"'{source}' wants the interpolation '{name}', which is not done here; give weights for bicubic or bilinear")
    return _RESAMPLE[name]
