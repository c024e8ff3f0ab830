"""CLIP as Hugging Face's transformers names it: its tensors and its configuration in open_clip's terms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

MARKS = ("vision_model.", "text_model.")
_LAYER = {
    **{"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"},
}
_TEXT = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_VISION = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    **{
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in (("pre_layrnorm", "ln_pre"), ("pre_layernorm", "ln_pre"))
        for kind in ("weight", "bias")
    },
    **{f"post_layernorm.{kind}": f"ln_post.{kind}" for kind in ("weight", "bias")},
}
_ATTENTION = re.compile(r"(.*encoder\.layers\.\d+\.self_attn\.)q_proj\.(weight|bias)$")
# transformers leaves out of a file what equals its defaults, which are those of ViT-B/32.
_VISION_DEFAULTS: dict[str, Any] = {
    **{
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 32,
    },
    "hidden_act": "quick_gelu",
}
_TEXT_DEFAULTS: dict[str, Any] = {
    **{"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8, "vocab_size": 49408},
    **{"max_position_embeddings": 77, "hidden_act": "quick_gelu"},
}


def is_transformers(state: Mapping[str, Tensor]) -> bool:
    """Say whether the names are those of transformers, with or without a prefix."""
    return any(mark in name for name in state for mark in MARKS)


def to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under open_clip's names (`visual.*`, and the text tower's at the top); unknown ones keep theirs.

    The three projections of an attention become its one matrix, and the projections to the shared space are transposed.
    """
    prefix = next(name[: name.index(mark)] for name in state for mark in MARKS if mark in name)
    found: dict[str, Tensor] = {}
    for name, tensor in ((name.removeprefix(prefix), tensor) for name, tensor in state.items()):
        if name == "visual_projection.weight":
            found["visual.proj"] = tensor.T.contiguous()
        elif name == "text_projection.weight":
            found["text_projection"] = tensor.T.contiguous()
        elif name.startswith("vision_model."):
            found |= _tensors(name, "vision_model.", "visual.", _VISION, state, prefix)
        elif name.startswith("text_model."):
            found |= _tensors(name, "text_model.", "", _TEXT, state, prefix)
        else:
            found[name] = tensor
    return found


def _tensors(name: str, mark: str, ours: str, table: Mapping[str, str], state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return what one tensor of a tower gives; keys and values go with their query, position ids nowhere."""
    rest, tensor = name.removeprefix(mark), state[prefix + name]
    if rest in table:
        return {ours + table[rest]: tensor}
    if rest.endswith("position_ids") or re.search(r"self_attn\.[kv]_proj\.", rest):
        return {}
    inner = re.sub(r"^encoder\.layers\.", f"{ours}transformer.resblocks.", rest)
    query = _ATTENTION.match(name)
    if query:
        parts = [
            state[f"{prefix}{query[1]}{which}_proj.{query[2]}"] for which in "qkv" if f"{prefix}{query[1]}{which}_proj.{query[2]}" in state
        ]
        return {inner.replace(f"self_attn.q_proj.{query[2]}", f"attn.in_proj_{query[2]}"): torch.cat(parts)}
    for theirs, here in _LAYER.items():
        inner = inner.replace(f".{theirs}.", f".{here}.")
    return {inner: tensor}


def configuration(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return open_clip's model configuration of a transformers `config.json` of CLIP."""
    vision = _VISION_DEFAULTS | dict(config.get("vision_config") or {})
    text = _TEXT_DEFAULTS | dict(config.get("text_config") or {})
    return {
        "embed_dim": config.get("projection_dim", 512),
        "quick_gelu": {"image": vision["hidden_act"] == "quick_gelu", "text": text["hidden_act"] == "quick_gelu"},
        "vision_cfg": {
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            **{"width": vision["hidden_size"], "layers": vision["num_hidden_layers"]},
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            **{"width": text["hidden_size"], "layers": text["num_hidden_layers"], "heads": text["num_attention_heads"]},
            "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
        },
    }
