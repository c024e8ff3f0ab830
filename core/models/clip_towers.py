"""One tower of a CLIP: a body that may be frozen, and a projection to the shared embedding space."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from core import digest
from core.errors import UserError
from core.models import lora
from core.models.split import FrozenTrunk, Network, TrainedTail, split
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


class ImageTower(Tower):
    """A tower of which a part may be frozen: images -> `frozen` (never changes, may be cached) -> `trained` -> features."""

    def features_and_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, width) and tokens (B, T, token width) of images (B, 3, H, W) in one pass."""
        raise NotImplementedError

    def freeze_stages(self, grad_from_block: int) -> None:
        """Freeze what comes before a stage, counted from 0; only timm towers can be taken apart.

        Raises:
            UserError: this tower cannot, or has no such stage.
        """
        if grad_from_block:
            raise UserError(
                f"grad_from_block={grad_from_block}: only timm image towers have stages; give 0, or lock_image=true to freeze {self.name}"
            )

    def frozen(self, images: Tensor) -> Tensor:
        """Return what no training changes, without gradients: a locked body's features, else the images themselves."""
        return self.features(images) if self.locked else images

    def trained(self, x: Tensor, with_tokens: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return features (B, width) of what `frozen` gave and, `with_tokens`, the tokens of a body that is not locked."""
        if self.locked:
            return x, None
        return self.features_and_tokens(x) if with_tokens else (self.features(x), None)

    def frozen_modules(self) -> list[nn.Module]:
        """Return the modules whose parameters and buffers no training changes."""
        return [self.body] if self.locked else []

    def frozen_digest(self) -> str:
        """Return the sha256 of what `frozen` computes with, '' when nothing is frozen."""
        return self.digest() if self.locked else ""


class TimmImageTower(ImageTower):
    """A timm network; its tokens are the places of the last feature map, or a ViT's patches."""

    body: Network

    # A tuple, so that the parts, which share the body's modules, are not registered a second time.
    _parts: tuple[FrozenTrunk, TrainedTail] | None = None

    def freeze_stages(self, grad_from_block: int) -> None:
        """Freeze the stem and the stages before `grad_from_block`; 0 freezes nothing."""
        if grad_from_block:
            try:
                self._parts = split(self.body, self.name, grad_from_block)
            except UserError as error:
                raise UserError(str(error).replace("model_name=", "image_encoder_name=")) from None
            self.train(self.training)

    def train(self, mode: bool = True) -> TimmImageTower:
        """Set the mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if self._parts is not None:
            self._parts[1].train(mode and not self.locked)
            self._parts[0].eval()
        return self

    def frozen(self, images: Tensor) -> Tensor:
        """Return a locked body's features, the frozen stages' output, or the images themselves."""
        return super().frozen(images) if self.locked or self._parts is None else self._parts[0](images)

    def trained(self, x: Tensor, with_tokens: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return features (B, width) of what `frozen` gave and, `with_tokens`, the tokens of a body that is not locked."""
        if self.locked or self._parts is None:
            return super().trained(x, with_tokens)
        tail = self._parts[1]
        for step in tail.steps or ():
            x = attrgetter(step)(tail.net)(x)
        return tail.net.forward_head(x, pre_logits=True), self._tokens(x) if with_tokens else None

    def frozen_modules(self) -> list[nn.Module]:
        """Return the locked body, or the frozen stages."""
        return super().frozen_modules() if self.locked or self._parts is None else [self._parts[0]]

    def frozen_digest(self) -> str:
        """Return the sha256 of the locked body, of the frozen stages, or ''."""
        if self.locked or self._parts is None:
            return super().frozen_digest()
        return digest.of_json([self.name, self.settings, self._parts[0].steps, digest_of(self._parts[0])])

    def features_and_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, width) and tokens (B, T, token width) of images (B, 3, H, W) in one pass."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked):
            found = self.body.forward_features(images)
            features = self.body.forward_head(found, pre_logits=True)
        return features, self._tokens(found)

    def _tokens(self, found: Tensor) -> Tensor:
        if found.ndim == 3:
            return found[:, getattr(self.body, "num_prefix_tokens", 0) :]
        if getattr(self.body, "output_fmt", "NCHW") == "NHWC":
            return found.flatten(1, 2)
        return found.flatten(2).transpose(1, 2)


class OpenClipNetwork(nn.Module):
    """What is used of an image network of open_clip beside what every module has; for annotations, nothing is made of it."""

    def forward_intermediates(self, x: Tensor, indices: int, normalize_intermediates: bool) -> dict[str, Any]:
        """Return 'image_features' (B, d) and 'image_intermediates', the last `indices` feature maps (B, C, h, w)."""
        raise NotImplementedError


class OpenClipImageTower(ImageTower):
    """An open_clip image network, its own projection included; its tokens are the patches of the last layer."""

    body: OpenClipNetwork

    def features_and_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, width) and tokens (B, T, token width) of images (B, 3, H, W) in one pass."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked):
            # CoCa's closing norm follows its pooling and does not fit the patches.
            closing = getattr(self.body, "attn_pool", None) is None
            found = self.body.forward_intermediates(images, indices=1, normalize_intermediates=closing)
        return found["image_features"], found["image_intermediates"][-1].flatten(2).transpose(1, 2)
