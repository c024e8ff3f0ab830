"""Weights of CLIP towers: safetensors of a whole CLIP or of one tower, checked name by name before anything is copied."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from torch import Tensor, nn

from core.errors import UserError
from core.models import clip_files, sentence_files, sentence_names, transformers_names, weights_fit
from core.models import weights as weight_files
from core.models.clip_names import TowerName

# What lies beside one tower in the file of a whole CLIP, in any naming; nothing is said of it.
_OF_THE_WHOLE = (
    *("visual", "text", "towers", "words", "head", "logit_scale", "logit_bias", "projection"),
    *("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection", "attn_mask"),
    *("input_resolution", "context_length", "vocab_size"),
)


def find(tower: TowerName, weights: str, side: str) -> Path | None:
    """Return the file with an open_clip tower's weights: `weights` (file, folder or hub id), its name's, or its tag's; None for none.

    Raises:
        UserError: a tag without safetensors on the hub, a hub out of reach, or weights for a sentence encoder, which brings its own.
    """
    if tower.kind == "hf":
        if weights:
            raise UserError(f"{side}_weights={weights}: hf:{tower.source} brings its own weights; leave it empty")
        return sentence_files.weights(sentence_names.PREFIX + tower.source) if tower.source else None
    with options_named(side):
        if weights:
            return weight_files.locate(weights, clip_files.WEIGHTS, clip_files.CONFIGS)
        if tower.source and not tower.tag:
            return weight_files.locate(tower.source, clip_files.WEIGHTS)
        here = weight_files.cached(tower.source, clip_files.WEIGHTS) if tower.source else None
    if here is not None or not tower.tag:
        return here
    repository, filename = _hub_source(tower, side)
    with options_named(side):
        return weight_files.hub_file(repository, filename)


def described(tower: TowerName, path: Path | None, state: dict[str, Tensor], given: bool, side: str) -> TowerName:
    """Return the tower with the activation and preprocessing of its weights.

    What the configuration beside them says overrides what the name says; bare weights under a name without a tag are looked at.

    Args:
        path: their file; None for none.
        given: an option named the file, and not the tower's own name or tag.
    """
    config = clip_files.beside(path) if path is not None else None
    if config is not None:
        quick = config.quick_gelu.get(side, tower.quick_gelu)
        return dataclasses.replace(tower, quick_gelu=quick, preprocessing=config.preprocessing or tower.preprocessing)
    if given and tower.kind == "open_clip" and not tower.quick_gelu and not tower.tag and clip_files.is_openai(state):
        print(f"taxon: {side}_weights={path} are OpenAI's, with nothing beside them that says so: QuickGELU is taken", file=sys.stderr)
        return dataclasses.replace(tower, quick_gelu=True)
    return tower


def _hub_source(tower: TowerName, side: str) -> tuple[str, str]:
    from core.models.open_clip_alone import open_clip

    address = open_clip.pretrained.get_pretrained_cfg(tower.model, tower.tag).get("hf_hub", "")
    owner, _, rest = address.partition("/")
    repository, _, filename = rest.partition("/")
    if not repository:
        raise UserError(f"{side}_pretrained={tower.tag} of {tower.model} is not on the hub; give {side}_weights=<local .safetensors file>")
    stem = filename.rsplit(".", 1)[0] if filename else ""
    return f"{owner}/{repository}", f"{stem}.safetensors" if stem and stem != "open_clip_pytorch_model" else clip_files.WEIGHTS[0]


def load(net: nn.Module, state: dict[str, Tensor], side: str, name: str, source: str) -> None:
    """Copy one tower's part of `state` into `net`, with its positions fitted to the image size or the context length.

    Raises:
        UserError: the weights are of another tower; the first mismatch is named and nothing was copied.
    """
    expected = net.state_dict()
    if transformers_names.is_transformers(state):
        state = transformers_names.to_open_clip(state)
    found = weights_fit.fit(state, expected)
    given = _fit_grid(net, found.given) if side == "image" else _fit_context(net, found.given, source)
    found = dataclasses.replace(found, given=given, mismatch=weights_fit.first_mismatch(expected, _known(given, expected)))
    if found.mismatch:
        raise UserError(
            f"{side}_weights={source} are not those of {side}_encoder_name={name}: {found.reason()}; give the tower that they belong to"
        )
    found.say(source, _OF_THE_WHOLE)
    net.load_state_dict(_known(given, expected), strict=False)


def _known(given: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without those of the other tower, which an older naming does not set apart."""
    parts = {name.partition(".")[0] for name in expected}
    return {
        name: tensor for name, tensor in given.items() if name.partition(".")[0] in parts or name.partition(".")[0] not in _OF_THE_WHOLE
    }


def _fit_grid(net: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    from core.models.open_clip_alone import open_clip

    if "positional_embedding" not in given:
        return given
    named = {"visual.positional_embedding": given["positional_embedding"]}
    open_clip.model.resize_pos_embed(named, SimpleNamespace(visual=net))
    return {**given, "positional_embedding": named["visual.positional_embedding"]}


def _fit_context(net: nn.Module, given: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Cut the positions to a shorter context: under the causal mask the tokens that are left then see what they always saw."""
    positions, wanted = given.get("positional_embedding"), len(net.get_parameter("positional_embedding"))
    if positions is None or positions.shape[0] == wanted or net.cls_emb is not None:
        return given
    if positions.shape[0] < wanted:
        raise UserError(
            f"context_length={wanted}: the weights {source} have {positions.shape[0]} positions; give {positions.shape[0]} or less"
        )
    return {**given, "positional_embedding": positions[:wanted]}


@contextlib.contextmanager
def options_named(side: str) -> Iterator[None]:
    """Let errors of the shared loaders, which speak of model_name and weights, name this tower's options."""
    try:
        yield
    except UserError as error:
        said = re.sub(r"(?<!\w)model_name=", f"{side}_encoder_name=", str(error))
        raise UserError(re.sub(r"(?<!\w)weights=", f"{side}_weights=", said)) from error
