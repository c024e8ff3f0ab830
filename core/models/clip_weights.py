"""Weights of CLIP towers: safetensors of a whole CLIP or of one tower, checked name by name before anything is copied."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from torch import Tensor, nn

from core.errors import UserError
from core.models import weights as weight_files
from core.models.clip_names import TowerName

_HUB_FILE = "open_clip_model.safetensors"
_PREFIX = {"image": "visual.", "text": "text."}
_OF_THE_WHOLE = ("visual.", "logit_scale", "logit_bias")


def find(tower: TowerName, weights: str, side: str) -> Path | None:
    """Return the file with an open_clip tower's weights: `weights` (local file or hub id), or that of its tag; None for neither.

    Raises:
        UserError: a tag without safetensors on the hub, or a hub out of reach.
    """
    with options_named(side):
        if weights and not weight_files.is_hub_id(weights):
            return Path(weights)
        if weights:
            return weight_files.hub_file(weights, _HUB_FILE)
    if not tower.tag:
        return None
    repository, filename = _hub_source(tower, side)
    with options_named(side):
        return weight_files.hub_file(repository, filename)


def _hub_source(tower: TowerName, side: str) -> tuple[str, str]:
    import open_clip

    address = open_clip.pretrained.get_pretrained_cfg(tower.model, tower.tag).get("hf_hub", "")
    owner, _, rest = address.partition("/")
    repository, _, filename = rest.partition("/")
    if not repository:
        raise UserError(f"{side}_pretrained={tower.tag} of {tower.model} is not on the hub; give {side}_weights=<local .safetensors file>")
    stem = filename.rsplit(".", 1)[0] if filename else ""
    return f"{owner}/{repository}", f"{stem}.safetensors" if stem and stem != "open_clip_pytorch_model" else _HUB_FILE


def part_of(state: dict[str, Tensor], side: str) -> dict[str, Tensor]:
    """Return one tower's tensors of a whole CLIP (open_clip's or this project's naming), or `state` when it is that tower alone."""
    prefix = _PREFIX[side]
    part = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if not part:
        part = {name: tensor for name, tensor in state.items() if not name.startswith(_OF_THE_WHOLE)}
    if part and all(name.startswith(("body.", "projection.")) for name in part):
        part = {name.removeprefix("body."): tensor for name, tensor in part.items() if name.startswith("body.")}
    return part


def load(net: nn.Module, state: dict[str, Tensor], side: str, name: str, source: str) -> None:
    """Copy one tower's part of `state` into `net`, with its positions fitted to the image size or the context length.

    Raises:
        UserError: the weights are of another tower; the first mismatch is named and nothing was copied.
    """
    given = part_of(state, side)
    given = _fit_grid(net, given) if side == "image" else _fit_context(net, given, source)
    mismatch = weight_files.first_mismatch(net.state_dict(), given)
    if mismatch:
        raise UserError(
            f"{side}_weights={source} are not those of {side}_encoder_name={name}: {mismatch}; give the tower that they belong to"
        )
    net.load_state_dict(given, strict=False)


def _fit_grid(net: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    from open_clip.model import resize_pos_embed

    if "positional_embedding" not in given:
        return given
    named = {"visual.positional_embedding": given["positional_embedding"]}
    resize_pos_embed(named, SimpleNamespace(visual=net))
    return {**given, "positional_embedding": named["visual.positional_embedding"]}


def _fit_context(net: nn.Module, given: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Cut the positions to a shorter context: under the causal mask the tokens that are left then see what they always saw."""
    positions, wanted = given.get("positional_embedding"), net.positional_embedding.shape[0]
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
