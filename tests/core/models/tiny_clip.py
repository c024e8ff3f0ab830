"""Towers small enough for tests: ViT 32 px width 64 x 2, text width 32 x 2, context 16, embedding 16."""

import torch

from core.models.clip import ClipTowers, build_towers

IMAGE, TEXT = "clip:small-64x2", "clip:small-32x2"


def towers(image: str = IMAGE, text: str = TEXT, **options) -> ClipTowers:
    return build_towers(image, text, **{"embed_dim": 16, "image_size": 32, "context_length": 16, **options})


def add_lora(made: ClipTowers, rank: int, alpha: float = 16.0, sides: tuple[str, ...] = ("visual", "text"), seed: int = 1) -> int:
    return sum(getattr(made, side).add_lora(rank, alpha, seed) for side in sides)


def images(n: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


SENTENCES = ["a leaf with brown spots", "a healthy leaf", ""]
