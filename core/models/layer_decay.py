"""Which layer each parameter of a tower belongs to: learning rates fall from its last layer to its first."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from core.models.clip_towers import Tower

_BLOCK = re.compile(r"(?:^|\.)(?:resblocks\.|blocks\.|layers?\.?)(\d+)\.")
_STEM = re.compile(r"^(?:conv\d|bn\d|class_embedding|positional_embedding|cls_emb|token_embedding|ln_pre|embeddings)(?:\.|$)")


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

        groups: Any = trunk.group_matcher  # a method of timm's networks
        found = group_parameters(trunk, groups(coarse=False), reverse=True)
        prefix = "" if trunk is net else "trunk."
        named = {f"{prefix}{name}": int(layer) for name, layer in found.items()}
    else:
        named = {name: int(block[1]) + 1 for name, _ in net.named_parameters() if (block := _BLOCK.search(name))}
        stem = min(named.values(), default=1) - 1
        named.update({name: stem for name, _ in net.named_parameters() if _STEM.match(name)})
    above = max(named.values(), default=0) + 1
    return {name: named.get(name, above) for name, _ in net.named_parameters()}
