"""Post classifiers: the embeddings of a post's text and image, joined into one decision."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.models.post_head_names import check
from core.models.weights_fit import first_mismatch

WIDTH = 256
"""Width that each embedding is brought to before they are joined."""


class PostClassifier(nn.Module):
    """Embeddings -> Linear 256, ReLU, dropout each -> joined (512) -> head -> logits.

    Heads: `base` Linear 256, ReLU, dropout, Linear C; `ln` the same behind a LayerNorm; `mlp` 512-256-128-C; `gated` weighs
    the modalities against each other, g = sigmoid(W [t; i]), and hands [g*i, (1-g)*t] to the base head (gated multimodal
    unit, Arevalo et al. 2017, arXiv:1702.01992).

    Args:
        text_dim: width of the text embedding. image_dim: width of the image embedding.
        n_classes: C.
        head: one of core.models.post_head_names.HEADS.
        modalities: `both`, or the ablation that sees one embedding only (its head starts from 256).
        dropout: probability, after every ReLU.
        seed: initialises the weights; the global random state is not touched.

    Raises:
        UserError: unknown head or modality, a gate without two modalities, or a dropout outside [0, 1).

    Example:
        >>> model = PostClassifier(512, 1280, 3, head="gated")
        >>> model(torch.randn(4, 512), torch.randn(4, 1280)).shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        text_dim: int,
        image_dim: int,
        n_classes: int,
        head: str = "base",
        modalities: str = "both",
        dropout: float = 0.15,
        seed: int = 1,
    ) -> None:
        super().__init__()
        check(head, modalities, dropout)
        self.head_name, self.modalities = head, modalities
        joined = 2 * WIDTH if modalities == "both" else WIDTH
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.text = None if modalities == "image_only" else _reduced(text_dim, dropout)
            self.image = None if modalities == "text_only" else _reduced(image_dim, dropout)
            self.gate = nn.Linear(joined, WIDTH) if head == "gated" else None
            self.head = _head(head, joined, n_classes, dropout)

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        """Map text (B, text_dim) and image (B, image_dim) embeddings to logits (B, C); an ablation ignores the other one."""
        t, i = (None if side is None else side(given) for side, given in ((self.text, text), (self.image, image)))
        if t is None or i is None:
            return self.head(i if t is None else t)
        if self.gate is None:
            return self.head(torch.cat([t, i], dim=1))
        g = torch.sigmoid(self.gate(torch.cat([t, i], dim=1)))
        return self.head(torch.cat([g * i, (1 - g) * t], dim=1))

    def load_weights(self, state: Mapping[str, Tensor], source: str) -> None:
        """Copy `state` (what `state_dict` gave) into this model, whole.

        Raises:
            UserError: the weights are of another head, other modalities or other widths; nothing was copied.
        """
        theirs, mine = described(state), described(self.state_dict())
        if theirs != mine:
            raise UserError(f"{source} has the weights of {theirs}, not of {mine}; give that head and modalities, or other weights")
        mismatch = first_mismatch(self.state_dict(), state)
        if mismatch:
            raise UserError(f"{source} does not fit head={self.head_name}: {mismatch}; use the towers and classes that it was trained with")
        self.load_state_dict(dict(state))


def described(state: Mapping[str, Tensor]) -> str:
    """Return `head=..., modalities=...` of a classifier's weights, told by their names, or `no post classifier`."""
    layers = sorted({name.split(".")[1] for name in state if name.startswith("head.")})
    names = {("0", "3"): "base", ("0", "1", "4"): "ln", ("0", "3", "6"): "mlp"}
    sides = [side for side in ("text", "image") if f"{side}.0.weight" in state]
    head = "gated" if "gate.weight" in state else names.get(tuple(layers), "")
    if not head or not sides:
        return "no post classifier"
    return f"head={head}, modalities={'both' if len(sides) == 2 else f'{sides[0]}_only'}"


def _reduced(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, WIDTH), nn.ReLU(), nn.Dropout(dropout))


def _head(name: str, width: int, n_classes: int, dropout: float) -> nn.Sequential:
    hidden = (256, 128) if name == "mlp" else (256,)
    layers: list[nn.Module] = [nn.LayerNorm(width)] if name == "ln" else []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, n_classes))
