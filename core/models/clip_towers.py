"""One tower of a CLIP: a body that may be frozen, and a projection to the shared embedding space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from core import digest
from core.models import lora
from core.models.weights import digest_of


class Tower(nn.Module):
    """Input -> body -> features (B, width) -> projection -> embedding (B, embed_dim), not normalised.

    Args:
        name: of the network, for digests and errors.
        body: the network.
        width: of its features.
        projection: a trainable linear layer, or None where the body ends in the embedding space (open_clip).
        settings: what decides the body's outputs beside its weights.
    """

    locked: bool = False

    def __init__(self, name: str, body: nn.Module, width: int, projection: nn.Linear | None, settings: dict[str, Any]) -> None:
        super().__init__()
        self.name, self.width, self.settings = name, width, settings
        self.body = body
        self.projection = nn.Identity() if projection is None else projection
        self.embed_dim = width if projection is None else projection.out_features
        self._thaw: list[nn.Parameter] = []

    def lock(self, locked: bool = True) -> None:
        """Freeze the body in evaluation mode (norm layers and dropout too), or free what was trainable before.

        The projection stays trainable: a frozen network behind a frozen random projection would learn nothing.
        """
        if locked == self.locked:
            return
        if locked:
            self._thaw = [p for p in self.body.parameters() if p.requires_grad]
        for parameter in self._thaw:
            parameter.requires_grad_(not locked)
        self.locked = locked
        self.train(self.training)

    def add_lora(self, rank: int, alpha: float, seed: int) -> int:
        """Train a low-rank change of the body instead of the body; see `core.models.lora.add`."""
        if self.locked:
            raise ValueError(f"{self.name} is locked; add LoRA before locking it")
        return lora.add(self.body, rank, alpha, self.name, seed)

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Return the named parameters that train, now or once the tower is unlocked."""
        thaw = {id(p) for p in self._thaw} if self.locked else set()
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad or id(p) in thaw]

    def digest(self) -> str:
        """Return the sha256 of the body's name, settings and weights: what its features depend on beside their input."""
        return digest.of_json([self.name, self.settings, digest_of(self.body)])

    def train(self, mode: bool = True) -> Tower:
        """Set the mode; a locked body stays in evaluation mode."""
        super().train(mode)
        if self.locked:
            self.body.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """Return the body's features (B, width); without gradients when locked. They are what a cache keeps."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked):
            return self._run(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, embed_dim), not normalised."""
        return self.projection(self.features(x))

    def _run(self, x: Tensor) -> Tensor:
        out = self.body(x)
        # open_clip's CoCa towers also return their tokens.
        return out[0] if isinstance(out, tuple) else out


class TimmImageTower(Tower):
    """A timm network; its tokens are the places of the last feature map, or a ViT's patches."""

    def features_and_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, width) and tokens (B, T, token width) of images (B, 3, H, W) in one pass."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked):
            found = self.body.forward_features(images)
            features = self.body.forward_head(found, pre_logits=True)
        if found.ndim == 3:
            return features, found[:, getattr(self.body, "num_prefix_tokens", 0) :]
        if getattr(self.body, "output_fmt", "NCHW") == "NHWC":
            return features, found.flatten(1, 2)
        return features, found.flatten(2).transpose(1, 2)


class OpenClipImageTower(Tower):
    """An open_clip image network, its own projection included; its tokens are the patches of the last layer."""

    def features_and_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, width) and tokens (B, T, token width) of images (B, 3, H, W) in one pass."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked):
            # CoCa's closing norm follows its pooling and does not fit the patches.
            closing = getattr(self.body, "attn_pool", None) is None
            found = self.body.forward_intermediates(images, indices=1, normalize_intermediates=closing)
        return found["image_features"], found["image_intermediates"][-1].flatten(2).transpose(1, 2)
