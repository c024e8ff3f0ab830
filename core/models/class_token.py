"""A vision transformer's last block for its class token alone: all that is pooled of it, at a small part of the work.

Only one query is asked. Its scores q . (W_k y_n) are (W_k^T q) . y_n, and the values it mixes are W_v applied to the mixed tokens, so that
no key and no value of any token is computed: N*d numbers a head instead of N*d^2. A key's bias adds the same to all of a query's scores
and falls out of their softmax. Up to rounding, the pooled features and all gradients are those of the block itself.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fits(net: Any, block: Any) -> bool:
    """Say whether only the class token is pooled after `block`, timm's plain one, and nothing in it is random as it runs now."""
    if not hasattr(net, "num_prefix_tokens"):  # no transformer: timm, which takes seconds to import, need not be asked
        return False
    from timm.layers import Attention
    from timm.models.vision_transformer import Block, VisionTransformer

    if (
        not isinstance(net, VisionTransformer)
        or type(net).forward_head is not VisionTransformer.forward_head
        or type(block) is not Block
        or type(block.attn) is not Attention
    ):
        return False
    attention = block.attn
    pooled = net.global_pool == "token" and net.attn_pool is None and net.num_prefix_tokens >= 1
    plain = type(attention.qkv) is nn.Linear and attention.qkv.weight.shape[0] == 3 * attention.attn_dim and attention.gate is None
    identities = (attention.q_norm, attention.k_norm, attention.norm)
    return pooled and plain and all(isinstance(part, nn.Identity) for part in identities) and not _random(block)


def _random(block: nn.Module) -> bool:
    """Say whether dropout of any kind acts in the block's present mode: its draws would be others for one token."""
    kinds = [part for part in block.modules() if type(part).__name__ in ("Dropout", "DropPath")]
    return block.training and any(getattr(part, "p", 0.0) or getattr(part, "drop_prob", 0.0) for part in kinds)


def last_block(block: Any, tokens: Tensor) -> Tensor:
    """Return the block's output for the first token (B, 1, D) of tokens (B, N, D); see `fits`."""
    seen = block.norm1(tokens)
    token = tokens[:, 0] + block.drop_path1(block.ls1(_attended(block.attn, seen)))
    token = token + block.drop_path2(block.ls2(block.mlp(block.norm2(token))))
    return token[:, None]


def _attended(attention: Any, seen: Tensor) -> Tensor:
    """Return what the first token's query takes from the normalised tokens (B, N, D): (B, D)."""
    heads, width = attention.num_heads, attention.head_dim
    to_query, to_key, to_value = attention.qkv.weight.chunk(3)
    of_query, _of_key, of_value = (None, None, None) if attention.qkv.bias is None else attention.qkv.bias.chunk(3)
    query = F.linear(seen[:, 0], to_query, of_query).unflatten(1, (heads, width)) * attention.scale  # (B, h, w)
    asked = torch.bmm(query.transpose(0, 1), to_key.unflatten(0, (heads, width))).transpose(0, 1)  # (B, h, D)
    shares = torch.bmm(asked, seen.transpose(1, 2)).float().softmax(dim=-1)  # (B, h, N)
    mixed = torch.bmm(shares.to(seen.dtype), seen)  # (B, h, D)
    values = torch.bmm(mixed.transpose(0, 1), to_value.unflatten(0, (heads, width)).transpose(1, 2))  # (h, B, w)
    taken = values.transpose(0, 1).flatten(1)
    if of_value is not None:
        taken = taken + of_value
    return attention.proj_drop(attention.proj(taken))
