"""Parameter groups of CLIP towers: a learning rate a tower, falling from its last layer to its first."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from core.models.clip import ClipTowers
from core.models.clip_towers import Tower

_BLOCK = re.compile(r"(?:^|\.)(?:resblocks\.|blocks\.|layer)(\d+)\.")
_STEM = re.compile(r"^(?:conv\d|bn\d|class_embedding|positional_embedding|cls_emb|token_embedding|ln_pre)(?:\.|$)")
_NO_DECAY = ("positional_embedding", "class_embedding", "cls_emb", "pos_embed", "cls_token")


def parameter_groups(
    towers: ClipTowers, image_lr: float, text_lr: float, weight_decay: float, layer_decay: float = 1.0, scale_lr: float | None = None
) -> list[dict[str, Any]]:
    """Return optimiser groups of all that trains, now or after unlocking: `params`, `lr`, `weight_decay` and a `name`.

    A layer k below a tower's top (projection and closing norm) has lr * layer_decay^k (as in BEiT, Bao et al. 2021,
    arXiv:2106.08254, appendix). Biases, norm layers, positions and the logit scale have no weight decay.

    Args:
        towers: locked towers count with what they would train, so that one optimiser serves before and after unlocking.
        image_lr: learning rate of the image tower's top. text_lr: of the text tower's.
        weight_decay: of matrices.
        layer_decay: in (0, 1]; 1 gives one learning rate a tower.
        scale_lr: of the logit scale; None takes `text_lr`. A fixed scale is left out.

    Raises:
        ValueError: `layer_decay` outside (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay={layer_decay} must be above 0 and at most 1")
    groups: dict[str, dict[str, Any]] = {}
    for side, tower, lr in (("image", towers.visual, image_lr), ("text", towers.text, text_lr)):
        layers, top = layer_of(tower)
        for name, parameter in tower.trainable():
            plain = parameter.ndim < 2 or name.endswith(_NO_DECAY)
            below = top - layers[name]
            key = f"{side}-{below}{'-plain' if plain else ''}"
            group = groups.setdefault(
                key, {"name": key, "params": [], "lr": lr * layer_decay**below, "weight_decay": 0.0 if plain else weight_decay}
            )
            group["params"].append(parameter)
    if towers.logit_scale.requires_grad:
        lr = text_lr if scale_lr is None else scale_lr
        groups["scale"] = {"name": "scale", "params": [towers.logit_scale], "lr": lr, "weight_decay": 0.0}
    return list(groups.values())


def layer_of(tower: Tower) -> tuple[dict[str, int], int]:
    """Return each parameter's layer, 0 for the stem, and the top layer: that of the projection and the closing norm."""
    layers = _layers(tower.body)
    top = max(layers.values(), default=0) + (0 if isinstance(tower.projection, nn.Identity) else 1)
    return {name: layers.get(name.removeprefix("body."), top) for name, _ in tower.named_parameters()}, top


def _layers(net: nn.Module) -> dict[str, int]:
    """Return the layer of each parameter: timm knows its networks, others name their blocks by number."""
    trunk = getattr(net, "trunk", net)
    if hasattr(trunk, "group_matcher"):
        from timm.models import group_parameters

        found = group_parameters(trunk, trunk.group_matcher(coarse=False), reverse=True)
        prefix = "" if trunk is net else "trunk."
        named = {f"{prefix}{name}": int(layer) for name, layer in found.items()}
    else:
        named = {name: int(block[1]) + 1 for name, _ in net.named_parameters() if (block := _BLOCK.search(name))}
        stem = min(named.values(), default=1) - 1
        named.update({name: stem for name, _ in net.named_parameters() if _STEM.match(name)})
    above = max(named.values(), default=0) + 1
    return {name: named.get(name, above) for name, _ in net.named_parameters()}
