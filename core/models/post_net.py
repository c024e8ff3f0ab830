"""One network of a post: the towers that it needs, and the head over what they give."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.models.clip import ClipTowers
from core.models.clip_towers import Tower
from core.models.post_heads import PostClassifier
from core.models.preprocessing import OLDER, Preprocessing
from core.models.tokenizers import Tokenizer


@dataclass(frozen=True)
class Reading:
    """How posts become the network's inputs."""

    tokenizer: Tokenizer
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    margin: float = OLDER.margin
    resize_mode: str = "shortest"

    @classmethod
    def of(cls, tokenizer: Tokenizer, seen: Preprocessing) -> Reading:
        """Return how posts are read for towers that see images as `seen` says."""
        return cls(tokenizer, **dataclasses.asdict(seen))

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are made."""
        return Preprocessing(self.mean, self.std, self.interpolation, self.margin, self.resize_mode)

    def normalise(self, images: Tensor) -> Tensor:
        """Map images (B, 3, S, S) uint8 to float32 as the image tower takes them."""
        mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


class PostNet(nn.Module):
    """Text and image of a post -> logits (B, C).

    The head takes what the towers' bodies give: the linear layers that it starts with stand in for projections to a shared space.
    Each input is either raw (token ids (B, L) int64, images (B, 3, S, S) float32) or already the body's features (B, width) float32,
    which a locked tower computes once for all epochs.

    Args:
        towers: of which the sides that the head does not look at are left out.
        head: the classifier.
        n_classes: C.
    """

    logit_bias: Tensor

    def __init__(self, towers: ClipTowers, head: PostClassifier, n_classes: int) -> None:
        super().__init__()
        self.visual = _body_only(towers.visual) if head.image is not None else None
        self.text = _body_only(towers.text) if head.text is not None else None
        self.head = head
        self.reading = Reading.of(towers.tokenizer, towers.preprocessing)
        self.register_buffer("logit_bias", torch.zeros(n_classes))

    @property
    def towers(self) -> dict[str, Tower]:
        """The towers in use by side, `visual` and `text`."""
        return {side: tower for side in ("visual", "text") if (tower := getattr(self, side)) is not None}

    def forward(self, text: Tensor | None, image: Tensor | None) -> Tensor:
        """Return the logits; in evaluation mode with `logit_bias` (logit adjustment is no part of the training)."""
        if self.text is not None and text is not None and not text.is_floating_point():
            text = self.text.features(text)
        if self.visual is not None and image is not None and image.ndim == 4:
            image = self.visual.features(image)
        logits = self.head(*(None if side is None else side.float() for side in (text, image)))
        return logits if self.training else logits + self.logit_bias

    def load_part(self, state: Mapping[str, Tensor], source: str) -> None:
        """Copy the head, the bias and whatever of the towers is in `state` into this network.

        Raises:
            UserError: the head's weights are of another head, modality or width.
            ValueError: `state` holds a tower's tensor that this network does not have.
        """
        self.head.load_weights({name.removeprefix("head."): value for name, value in state.items() if name.startswith("head.")}, source)
        mine = self.state_dict()
        rest = {name: value for name, value in state.items() if not name.startswith("head.")}
        foreign = [name for name in rest if name not in mine or mine[name].shape != rest[name].shape]
        if foreign:
            raise ValueError(f"'{foreign[0]}' of {source} is not part of this network")
        self.load_state_dict(rest, strict=False)


def _body_only(tower: Tower) -> Tower:
    tower.projection = nn.Identity()
    return tower
