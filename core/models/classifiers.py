"""Classifiers: a backbone with one head a label, and what of it trains."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.models.split import last_stage_modules

LABEL = "label"
LEVELS = ("head", "last_stage", "all")


def linear_head(in_dim: int, n_classes: int, seed: int = 1) -> nn.Linear:
    """Return a linear layer with PyTorch's own initial distribution, drawn from `seed`; the global random state is not touched."""
    # Built without nn.Linear's own random initialisation, which would draw from the global generator.
    linear = nn.utils.skip_init(nn.Linear, in_dim, n_classes)
    generator, bound = torch.Generator().manual_seed(seed), 1 / math.sqrt(in_dim)
    nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
    nn.init.uniform_(linear.bias, -bound, bound, generator=generator)
    return linear


class CosineHead(nn.Module):
    """Cosine classifier (Gidaris and Komodakis 2018, arXiv:1804.09458, section 3.2) with a fixed scale: z_c = scale * cos(f, w_c).

    The length of a class's weight says nothing here, which a linear head uses to prefer frequent classes.

    Args:
        in_dim: width of the features.
        n_classes: C.
        scale: multiplies the cosines.
        seed: seeds the normal directions of the weights; the global random state is not touched.

    Example:
        >>> head = CosineHead.from_linear(model.heads["label"])
        >>> head(torch.randn(4, 2048)).shape
        torch.Size([4, 61])
    """

    def __init__(self, in_dim: int, n_classes: int, scale: float = 30.0, seed: int = 1) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scale = in_dim, n_classes, scale
        directions = torch.randn(n_classes, in_dim, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(F.normalize(directions, dim=1))

    @classmethod
    def from_linear(cls, linear: nn.Linear, scale: float = 30.0) -> CosineHead:
        """Return a cosine head with the directions of `linear`'s weights, on its device; the bias and the lengths are given up.

        Raises:
            ValueError: a row of the weights is zero and has no direction.
        """
        weight = linear.weight.detach()
        zero = torch.nonzero(weight.abs().sum(dim=1) == 0).flatten().tolist()
        if zero:
            raise ValueError(f"the linear head's weights of class {zero[0]} are zero: a cosine head cannot take their direction")
        head = cls(linear.in_features, linear.out_features, scale).to(weight)
        head.weight.data.copy_(F.normalize(weight, dim=1))
        return head

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, in_dim) to logits (B, C) in float32: half-precision cosines, times the scale, would be off by 0.1."""
        with torch.autocast(features.device.type, enabled=False):
            features = features if features.dtype == torch.float64 else features.float()
            return self.scale * F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1).to(features.dtype))


class FewShotHead(nn.Module):
    """A hidden layer between frozen features and few labels: linear, ReLU, dropout, linear.

    Args:
        in_dim: width of the features.
        n_classes: C.
        hidden: width of the hidden layer.
        dropout: probability of dropping a hidden unit in training.
        seed: seeds both layers; the global random state is not touched.
    """

    def __init__(self, in_dim: int, n_classes: int, hidden: int = 512, dropout: float = 0.5, seed: int = 1) -> None:
        super().__init__()
        self.in_features, self.out_features = in_dim, n_classes
        self.hidden = linear_head(in_dim, hidden, seed)
        self.dropout = nn.Dropout(dropout)
        self.last: nn.Module = linear_head(hidden, n_classes, seed + 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, in_dim) to logits (B, C)."""
        return self.last(self.dropout(F.relu(self.hidden(features))))


class Classifier(nn.Module):
    """Images -> features -> logits of each head, with a part of the backbone frozen.

    What is frozen neither receives gradients nor moves: its norm layers keep their running statistics and its dropout is off,
    whatever `train()` says. `logit_bias` (C,), zero at first, is added to the label's logits in evaluation mode only: post-hoc
    logit adjustment belongs to what is scored, saved and served, and not to the training loss.

    Args:
        net: maps images (B, 3, H, W) to pooled features (B, feature_dim).
        feature_dim: width of the features.
        heads: 'label', and 'crop', 'disease', 'severity' or others; each has `in_features` and `out_features`.
        dropout: probability of dropping a feature before the heads in training.
        frozen_backbone: the backbone never trains, whatever level is set (few-shot).

    Raises:
        ValueError: no head named 'label', a head named 'features', or one of another width than the features.

    Example:
        >>> backbone = build("resnet50", 224, 0)
        >>> model = Classifier(backbone.tail, backbone.feature_dim, nn.ModuleDict({"label": linear_head(backbone.feature_dim, 61)}))
        >>> model.set_trained("head")
        >>> model(images)["label"].shape
        torch.Size([32, 61])
    """

    logit_bias: Tensor

    def __init__(self, net: nn.Module, feature_dim: int, heads: nn.ModuleDict, dropout: float = 0.3, frozen_backbone: bool = False) -> None:
        super().__init__()
        if LABEL not in heads or "features" in heads:
            raise ValueError(f"a classifier needs a head '{LABEL}' and none named 'features', got {', '.join(heads) or 'none'}")
        for name, head in heads.items():
            if head.in_features != feature_dim:
                raise ValueError(f"head '{name}' takes features of width {head.in_features}, the backbone gives {feature_dim}")
        self.net, self.feature_dim, self.heads = net, feature_dim, heads
        self.dropout = nn.Dropout(dropout)
        self.frozen_backbone = frozen_backbone
        self.register_buffer("logit_bias", torch.zeros(cast(nn.Linear | CosineHead | FewShotHead, heads[LABEL]).out_features))
        self.set_trained("all")

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features (B, feature_dim) of images (B, 3, H, W), before dropout and not normalised."""
        return self.net(images)

    def classify(self, features: Tensor) -> dict[str, Tensor]:
        """Return {'features': the features as they came, one entry of logits (B, C) a head} of features (B, feature_dim)."""
        dropped = self.dropout(features)
        out = {"features": features} | {name: head(dropped) for name, head in self.heads.items()}
        if not self.training:
            out[LABEL] = out[LABEL] + self.logit_bias.to(out[LABEL].dtype)
        return out

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return {'features': (B, feature_dim), one entry of logits (B, C) a head} of images (B, 3, H, W)."""
        return self.classify(self.features(images))

    def set_trained(self, level: str) -> None:
        """Let the heads train, and of the backbone: nothing ('head'), its last stage and what follows ('last_stage'), or 'all'.

        Stale gradients of what is now frozen are dropped, or an optimiser would go on moving it.

        Raises:
            ValueError: unknown level, or 'last_stage' of a backbone in which no last stage is found.
        """
        if level not in LEVELS:
            raise ValueError(f"level {level} is unknown; give one of {', '.join(LEVELS)}")
        if level == "last_stage" and not last_stage_modules(self.net):
            raise ValueError(f"no last stage is found in a backbone of type {type(self.net).__name__}")
        self.level = "head" if self.frozen_backbone else level
        trained = {id(p) for module in self._trained_modules() for p in module.parameters()}
        for parameter in self.net.parameters():
            parameter.requires_grad_(id(parameter) in trained)
            if not parameter.requires_grad:
                parameter.grad = None
        self.heads.requires_grad_(True)
        self.train(self.training)

    def _trained_modules(self) -> list[nn.Module]:
        if self.level == "last_stage":
            return last_stage_modules(self.net)
        return [self.net] if self.level == "all" else []

    def train(self, mode: bool = True) -> Classifier:
        """Set the mode of what trains; what is frozen stays in evaluation mode."""
        super().train(mode)
        trained = {id(module) for part in self._trained_modules() for module in part.modules()}
        for module in self.net.modules():
            # A container with a trained part keeps its mode: closing dropout may be its own and not a module.
            if trained.isdisjoint(id(inner) for inner in module.modules()):
                module.training = False
        return self

    def to_cosine(self, scale: float = 30.0) -> CosineHead:
        """Replace the label's linear layer (a FewShotHead's last one) by the cosine head made from it, and return that.

        Its weight is a new parameter, for which the optimiser needs a place. A cosine head that is there already stays.

        Raises:
            ValueError: the label's head is of another kind, or has a class without direction.
        """
        label = self.heads[LABEL]
        owner, name = (label, "last") if isinstance(label, FewShotHead) else (self.heads, LABEL)
        head = getattr(owner, name)
        if isinstance(head, CosineHead):
            return head
        if not isinstance(head, nn.Linear):
            raise ValueError(f"a cosine head is made from a linear one, not from {type(head).__name__}")
        cosine = CosineHead.from_linear(head, scale).train(self.training)
        setattr(owner, name, cosine)
        return cosine
