"""A sentence encoder in Hugging Face's layout, small enough for a test: BERT of width 32, a WordPiece vocabulary of letters and words."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

WIDTH = 32
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = ("sad", "bad", "happy", "good", "desk", "chair", "a", "bar", "dot", "ring", "cross", "hollow", "thick")
TEXTS = ("a good happy desk", "sad", "", "nobody knows the trouble i have seen, nobody knows")


def write(folder: Path, seed: int = 0, **config: Any) -> Path:
    """Write config.json, tokenizer.json, model.safetensors and the files beside them; return `folder`."""
    made = network(seed, **config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(made.config.to_dict()))
    tokenizer(16).save(str(folder / "tokenizer.json"))
    state = {name: value.clone().contiguous() for name, value in made.state_dict().items()}
    save_file(state | {"embeddings.position_ids": torch.arange(40)[None]}, folder / "model.safetensors")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 40}))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}))
    return folder


def network(seed: int = 0, **config: Any) -> Any:
    """Return transformers' own network, in evaluation mode."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"max_position_embeddings": 40, "vocab_size": len(vocabulary()), "initializer_range": 0.5}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertModel(BertConfig(**sizes | config)).eval()


def vocabulary() -> dict[str, int]:
    """Return the ids of the special tokens, the words, and letters at and after a word's start."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    return {token: i for i, token in enumerate([*SPECIAL, *WORDS, *(f"##{letter}" for letter in letters), *letters[1:]])}


def tokenizer(length: int) -> Any:
    """Return a tokenizer that cuts and pads to `length`, as published ones are saved."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordPiece(vocabulary(), unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made.add_special_tokens(list(SPECIAL))
    made.enable_truncation(length)
    made.enable_padding(length=length)
    return made


def means(net: Any, folder: Path, texts: Any, length: int) -> torch.Tensor:
    """Return the vectors (N, width) of texts by transformers' own tokenizer and network, averaged over the attention mask."""
    from transformers import PreTrainedTokenizerFast

    own = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]")
    given = own(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        hidden = net(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
    mask = given["attention_mask"][:, :, None].float()
    return (hidden * mask).sum(1) / mask.sum(1)
