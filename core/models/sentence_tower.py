"""The text tower of a pretrained sentence encoder (BERT and its kin): the mean of its last hidden states over a text's tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.models import weights_fit
from core.models.clip_names import TowerName
from core.models.clip_towers import Tower
from core.models.sentence_names import OPTION
from core.models.tokenizers import SentenceTokenizer

# What lies beside the encoder in files of models that were trained further; nothing is said of it.
_USUAL = ("pooler", "cls", "lm_head", "classifier")


class SentenceTower(Tower):
    """Token ids (B, L) -> transformer -> mean over the tokens that are no padding (Reimers and Gurevych 2019, arXiv:1908.10084).

    Args:
        padding: id of the padding token; the rest as for Tower.

    Example:
        >>> tower, tokenizer = build(text_tower("hf:all-MiniLM-L6-v2", "", 0), read_safetensors("model.safetensors"), "", None)
        >>> tower.features(tokenizer(["what a day"]).ids).shape
        torch.Size([1, 384])
    """

    def __init__(
        self, name: str, body: nn.Module, width: int, projection: nn.Linear | None, settings: dict[str, Any], padding: int
    ) -> None:
        super().__init__(name, body, width, projection, settings)
        self.padding = padding

    def _run(self, x: Tensor) -> Tensor:
        mask = x != self.padding
        longest = max(int(mask.sum(dim=1).max()), 1)  # what follows is padding in every row
        mask = mask[:, :longest]
        hidden = self.body(input_ids=x[:, :longest], attention_mask=mask.long()).last_hidden_state.float()
        weights = mask.unsqueeze(2).to(hidden.dtype)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def build(name: TowerName, state: dict[str, Tensor], source: str, embed_dim: int, seed: int) -> tuple[SentenceTower, SentenceTokenizer]:
    """Return the tower of what `sentence_files.read` found, and its tokenizer; its projection to another width starts from `seed`.

    Args:
        name: kind `hf`; its config holds `encoder`, `tokenizer` and `context_length`.
        state: its weights; {} where they are loaded later.
        source: their file, for errors.
        embed_dim: width of the shared space; where it is the encoder's own there is no projection.

    Raises:
        UserError: a network that transformers cannot build or that takes no such texts, or weights of another one.
    """
    config = name.config
    body = _network(config["encoder"], name.source, seed)
    if state:
        _load(body, state, name.source, source)
    width, padding = int(body.config.hidden_size), int(body.config.pad_token_id or 0)
    tokenizer = SentenceTokenizer(config["tokenizer"], config["context_length"], padding)
    projection = None if width == embed_dim else random_projection(width, embed_dim, seed)
    tower = SentenceTower(name.model, body, width, projection, {"kind": name.kind, "config": config, "quick_gelu": False}, padding)
    _require_texts(tower, tokenizer, name.source)
    return tower, tokenizer


def random_projection(width: int, embed_dim: int, seed: int) -> nn.Linear:
    """Return a linear layer without bias whose weights are drawn from `seed` with deviation width^-0.5."""
    projection = nn.utils.skip_init(nn.Linear, width, embed_dim, bias=False)
    nn.init.normal_(projection.weight, std=width**-0.5, generator=torch.Generator().manual_seed(seed))
    return projection


def _network(config: dict[str, Any], named: str, seed: int) -> Any:
    """Return transformers' network of a config.json in float32, initialised from `seed`, without the layer over its first token."""
    from transformers import AutoConfig, AutoModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            made = AutoConfig.for_model(**config)
            net: Any = AutoModel.from_config(made, trust_remote_code=False, dtype=torch.float32)
        except (ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
            line = " ".join(str(error).split())[:120]
            raise UserError(f"{OPTION}=hf:{named}: its config.json cannot be built ({line}); give a BERT-like encoder") from error
    if hasattr(net, "pooler"):
        net.pooler = None
    return net


def _load(net: nn.Module, state: dict[str, Tensor], named: str, source: str) -> None:
    expected = net.state_dict()
    # Buffers of older files, and LayerNorm's weights as BERT's first release called them.
    state = {name: tensor for name, tensor in state.items() if not name.endswith(".position_ids")}
    state = {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): t for name, t in state.items()
    }
    found = weights_fit.fit(state, expected)
    if found.mismatch:
        raise UserError(f"{OPTION}=hf:{named}: '{source}' is not of the network in its config.json: {found.reason()}; copy both again")
    found.say(source, _USUAL)
    net.load_state_dict(found.given)


@torch.no_grad()
def _require_texts(tower: SentenceTower, tokenizer: SentenceTokenizer, named: str) -> None:
    """Prove by one pass that the network takes a text of the whole context, and has every word of the tokenizer."""
    words = torch.full((1, tokenizer.context_length), tokenizer.vocabulary - 1)
    training = tower.training
    try:
        tower.eval().features(words)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        line = " ".join(str(error).split())[:120]
        said = f"takes no text of {tokenizer.context_length} tokens out of {tokenizer.vocabulary} ({line})"
        raise UserError(f"{OPTION}=hf:{named} {said}; give a BERT-like encoder, or a smaller context_length") from error
    finally:
        tower.train(training)
